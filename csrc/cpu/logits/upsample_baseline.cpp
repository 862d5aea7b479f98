// What every processor of the architecture has.
#include "logits/upsample_losses.h"

namespace fastia {

extern const AllUpsampleKernels kUpsampleBaseline = {kUpsample<float>, kUpsample<double>};

}  // namespace fastia
