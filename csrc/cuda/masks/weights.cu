// Kernel 4 of weights: Eq. 3, the pixels of a component's class over its own, at most tau.
#include "core/fill.cuh"

namespace fastia {

// The bits of a weight (0, or 1 and more) in a dtype, rounded once, ties to even.
template <class Bits_, int kMantissa, int kBias>
struct Format {
    using Bits = Bits_;

    __device__ static Bits round(double weight) {
        if (weight == 0) return 0;
        unsigned long long bits = static_cast<unsigned long long>(__double_as_longlong(weight));
        constexpr int kDropped = 52 - kMantissa;
        if constexpr (kDropped > 0) bits = (bits + (1ull << (kDropped - 1)) - 1 + ((bits >> kDropped) & 1)) >> kDropped;
        constexpr unsigned long long kRebias = static_cast<unsigned long long>(1023 - kBias) << kMantissa;
        constexpr unsigned long long kInfinity = static_cast<unsigned long long>(2 * kBias + 1) << kMantissa;
        return static_cast<Bits>(min(bits - kRebias, kInfinity));
    }
};
using Float16 = Format<unsigned short, 10, 15>;
using BFloat16 = Format<unsigned short, 7, 127>;
using Float32 = Format<unsigned, 23, 127>;
using Float64 = Format<unsigned long long, 52, 1023>;

template <class Format, class Index>
struct FillWeights {
    Labelling<Index> labelling;
    double tau;
    long long word_capacity, run_capacity;  // words and runs of a strip that shared memory has room for
    typename Format::Bits* weights;         // [images, height, width]
};

template <class Format, class Index>
__device__ void fill_weights(const FillWeights<Format, Index>& parameters) {
    using Bits = typename Format::Bits;
    const Labelling<Index>& labelling = parameters.labelling;
    const Strip strip = strip_of_block(labelling.division);
    const long long image_slot = strip.image_slot();
    const Index* const class_total = labelling.class_total + strip.image * labelling.classes;
    fill_strip(strip, labelling, static_cast<unsigned>(parameters.word_capacity),
               static_cast<unsigned>(parameters.run_capacity), parameters.weights, [&](unsigned component) -> Bits {
                   if (component == kNoComponent) return Format::round(0.0);
                   if (component == kBackgroundComponent) return Format::round(1.0);
                   const long long slot = strip.slot + component;
                   const Index root = labelling.component_parent[slot];
                   const Index own = labelling.total[image_slot + root];
                   const Index of_class = class_total[labelling.classes > 1 ? labelling.component_class[slot] : 0];
                   const double ratio = __ddiv_rn(static_cast<double>(of_class), static_cast<double>(own));
                   return Format::round(min(parameters.tau, ratio));
               });
}

}  // namespace fastia

#define FASTIA_FILL_WEIGHTS(name, Format)                                     \
    extern "C" __global__ void fastia_fill_weights_##name##_32(               \
        fastia::FillWeights<fastia::Format, unsigned> parameters) {           \
        fastia::fill_weights(parameters);                                     \
    }                                                                         \
    extern "C" __global__ void fastia_fill_weights_##name##_64(               \
        fastia::FillWeights<fastia::Format, unsigned long long> parameters) { \
        fastia::fill_weights(parameters);                                     \
    }

FASTIA_FILL_WEIGHTS(float16, Float16)
FASTIA_FILL_WEIGHTS(bfloat16, BFloat16)
FASTIA_FILL_WEIGHTS(float32, Float32)
FASTIA_FILL_WEIGHTS(float64, Float64)
