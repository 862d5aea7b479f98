// Kernel 4: writes the value of its component, a label or a weight, to every pixel.
#include "runs.cuh"

namespace fastia {

// Values of runs lie in shared memory where there is room; else each pixel looks up its own.
template <class Value, class ValueOf>
__device__ void fill_strip(const Strip& strip, const Division& division, unsigned runs, const Word* image_words,
                           const unsigned* run_component, unsigned capacity, Value* out, ValueOf value_of) {
    const Word* words = image_words + strip.first_word;
    const unsigned* component = run_component + strip.slot;
    const bool fits = runs <= capacity;
    const Span<Value> values = shared_span<Value>(0, capacity);
    if (fits) {
        for (unsigned run = threadIdx.x; run < runs; run += blockDim.x) values[run] = value_of(component[run]);
        __syncthreads();
    }
    Value* const strip_out = out + strip.slot;
    for (unsigned number = threadIdx.x / 32; number < strip.words(); number += blockDim.x / 32) {
        const Word word = words[number];
        const long long row = number / strip.words_per_row;
        const long long x = 32LL * (number % strip.words_per_row) + threadIdx.x % 32;
        if (x >= division.width) continue;
        const unsigned run = word.run(threadIdx.x % 32);
        Value value;
        if (fits)
            value = values[run];
        else
            value = value_of(component[run]);
        strip_out[row * division.width + x] = value;
    }
}

// Labels of roots: the roots of the strips before theirs, and of their own strip before them.
template <class Index>
struct Labels {
    const Index* parent;  // of the image
    const unsigned *rank, *strip_roots;
    Index strip_pixels;

    __device__ int of_root(Index root) const {
        return static_cast<int>(strip_roots[root / strip_pixels] + rank[root] + 1);
    }
};

template <class Index>
__device__ void fill_labels(const Division& division, const StripCounts* counts, const Word* words,
                            const unsigned* run_component, const Index* component_parent, const unsigned* rank,
                            const unsigned* strip_roots, unsigned capacity, int* labels) {
    const Strip strip = strip_of_block(division);
    const long long image_slot = strip.slot - strip.component_base;
    const Index* parent = component_parent + image_slot;
    const Labels<Index> label{parent, rank + image_slot, strip_roots + strip.image * division.strips(),
                              static_cast<Index>(division.strip_pixels())};
    fill_strip(strip, division, counts[blockIdx.x].runs, words, run_component, capacity, labels,
               [&](unsigned component) {
                   return is_component(component) ? label.of_root(parent[strip.component_base + component]) : 0;
               });
}

}  // namespace fastia

#define FASTIA_FILL_LABELS(name, Index)                                                                                \
    extern "C" __global__ void fastia_fill_labels_##name(                                                              \
        long long height, long long width, long long rows, const fastia::StripCounts* counts,                          \
        const fastia::Word* words, const unsigned* run_component, const Index* component_parent, const unsigned* rank, \
        const unsigned* strip_roots, long long capacity, int* labels) {                                                \
        fastia::fill_labels<Index>({height, width, rows}, counts, words, run_component, component_parent, rank,        \
                                   strip_roots, static_cast<unsigned>(capacity), labels);                              \
    }

FASTIA_FILL_LABELS(32, unsigned)
FASTIA_FILL_LABELS(64, unsigned long long)
