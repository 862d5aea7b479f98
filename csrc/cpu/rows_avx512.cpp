// Compiled with AVX-512 (BW, VL, DQ, VPOPCNTDQ, VBMI2), run only where the processor has them.
#if defined(__x86_64__) || defined(_M_X64)
#include "rows_impl.h"

namespace fastia {

extern const RowKernels kRowsAvx512 = FASTIA_ROW_KERNELS("avx512");

}  // namespace fastia
#endif
