// Compiled with AVX2 and FMA, run only where the processor has them.
#if defined(__x86_64__) || defined(_M_X64)
#include "logits/upsample_losses.h"

namespace fastia {

extern const AllUpsampleKernels kUpsampleAvx2 = {kUpsample<float>, kUpsample<double>};

}  // namespace fastia
#endif
