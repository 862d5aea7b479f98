// Compiled with AVX2, run only where the processor has it.
#if defined(__x86_64__) || defined(_M_X64)
#include "core/rows_impl.h"

namespace fastia {

extern const RowKernels kRowsAvx2 = FASTIA_ROW_KERNELS("avx2");

}  // namespace fastia
#endif
