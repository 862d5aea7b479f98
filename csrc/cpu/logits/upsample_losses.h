// The pixel losses of the CPU. To add one, write a header like upsample_cross_entropy.h, and name it here.
#pragma once
#include "logits/upsample_cross_entropy.h"
#include "logits/upsample_impl.h"

namespace fastia {
namespace {

template <class T>
using PixelLosses = LossTable<T, CrossEntropy>;

template <class T>
constexpr UpsampleKernels<T> kUpsample = {kLanes<T>, argmax<T>, PixelLosses<T>::kKernels, PixelLosses<T>::kCount};

}  // namespace
}  // namespace fastia
