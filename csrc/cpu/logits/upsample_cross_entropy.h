// The cross-entropy with label smoothing, parameters {label_smoothing}, as a pixel loss.
//
// A pixel loss is a function f of nll = -log p_target, its derivative, and the share of the sum over all classes
// (LossPiece, upsample.h). The walk does the rest: interpolation, softmax, weights of pixels and classes.
#pragma once
#include "logits/upsample_simd.h"

namespace fastia {
namespace {

template <class T>
struct CrossEntropy {
    static constexpr const char* kName = "cross_entropy";
    const T target_share, class_share;

    CrossEntropy(const double* parameters, int64_t classes)
        : target_share(static_cast<T>(1 - parameters[0])),
          class_share(static_cast<T>(parameters[0] / static_cast<double>(classes))) {}

    FASTIA_INLINE Vector<T> forward(Vector<T> nll) const { return nll * target_share; }
    // `nll()` is computed where it is called.
    template <class Nll>
    FASTIA_INLINE Vector<T> backward(Nll) const {
        return splat(target_share);
    }
};

}  // namespace
}  // namespace fastia
