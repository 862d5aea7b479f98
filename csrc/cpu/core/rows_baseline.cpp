// What every processor of the architecture has: SSE2, NEON or plain C++.
#include "core/rows_impl.h"

namespace fastia {

#if defined(FASTIA_SIMD_SSE2)
extern const RowKernels kRowsBaseline = FASTIA_ROW_KERNELS("sse2");
#elif defined(FASTIA_SIMD_NEON)
extern const RowKernels kRowsBaseline = FASTIA_ROW_KERNELS("neon");
#else
extern const RowKernels kRowsBaseline = FASTIA_ROW_KERNELS("scalar");
#endif

}  // namespace fastia
