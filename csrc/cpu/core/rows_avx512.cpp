// Compiled with AVX-512 (BW, VL, DQ, VPOPCNTDQ, VBMI2), run only where the processor has them.
#if defined(__x86_64__) || defined(_M_X64)
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC's own intrinsics, up to version 12
#endif
#include "core/rows_impl.h"

namespace fastia {

extern const RowKernels kRowsAvx512 = FASTIA_ROW_KERNELS("avx512");

}  // namespace fastia
#endif
