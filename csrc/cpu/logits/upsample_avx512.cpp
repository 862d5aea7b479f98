// Compiled with AVX-512 (F, VL, BW, DQ), run only where the processor has them.
#if defined(__x86_64__) || defined(_M_X64)
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC's own intrinsics, up to version 12
#endif
#include "logits/upsample_losses.h"

namespace fastia {

extern const AllUpsampleKernels kUpsampleAvx512 = {kUpsample<float>, kUpsample<double>};

}  // namespace fastia
#endif
