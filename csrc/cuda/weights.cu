// Kernel 4 of weights: Eq. 3, the pixels of a component's class over its own, at most tau.
#include "fill.cuh"

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
__device__ void fill_weights(const Division& division, const StripCounts* counts, const Word* words,
                             const unsigned* run_component, const Index* component_parent,
                             const unsigned short* component_class, const Index* total, const Index* class_total,
                             long long classes, double tau, unsigned word_capacity, unsigned capacity,
                             typename Format::Bits* out) {
    using Bits = typename Format::Bits;
    const Strip strip = strip_of_block(division);
    const long long image_slot = strip.image_slot();
    const Index* const image_class_total = class_total + strip.image * classes;
    fill_strip(strip, counts[blockIdx.x].runs, words, run_component, word_capacity, capacity, out,
               [&](unsigned component) -> Bits {
                   if (component == kIgnored) return Format::round(0.0);
                   if (component == kBackground) return Format::round(1.0);
                   const long long slot = strip.slot + component;
                   const Index root = component_parent[slot];
                   const Index own = total[image_slot + root];
                   const Index of_class = image_class_total[classes > 1 ? component_class[slot] : 0];
                   const double ratio = __ddiv_rn(static_cast<double>(of_class), static_cast<double>(own));
                   return Format::round(min(tau, ratio));
               });
}

}  // namespace fastia

#define FASTIA_WEIGHTS(name, Format, Index)                                                                         \
    extern "C" __global__ void fastia_fill_weights_##name(                                                          \
        long long height, long long width, long long rows, const fastia::StripCounts* counts,                       \
        const fastia::Word* words, const unsigned* run_component, const Index* component_parent,                    \
        const unsigned short* component_class, const Index* total, const Index* class_total, long long classes,     \
        double tau, long long word_capacity, long long capacity, fastia::Format::Bits* weights) {                   \
        fastia::fill_weights<fastia::Format, Index>({height, width, rows}, counts, words, run_component,            \
                                                    component_parent, component_class, total, class_total, classes, \
                                                    tau, static_cast<unsigned>(word_capacity),                      \
                                                    static_cast<unsigned>(capacity), weights);                      \
    }
#define FASTIA_WEIGHTS_OF(name, Format)         \
    FASTIA_WEIGHTS(name##_32, Format, unsigned) \
    FASTIA_WEIGHTS(name##_64, Format, unsigned long long)

FASTIA_WEIGHTS_OF(float16, Float16)
FASTIA_WEIGHTS_OF(bfloat16, BFloat16)
FASTIA_WEIGHTS_OF(float32, Float32)
FASTIA_WEIGHTS_OF(float64, Float64)
