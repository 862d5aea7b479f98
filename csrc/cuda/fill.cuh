// Kernel 4, but for what it writes: the value of its component to every pixel of a strip.
#pragma once
#include "runs.cuh"

namespace fastia {

// Values of runs lie in shared memory where there is room; else each pixel asks for its own.
template <class Value, class ValueOf>
__device__ void fill_strip(const Strip& strip, unsigned runs, const Word* image_words, const unsigned* run_component,
                           unsigned capacity, Value* out, ValueOf value_of) {
    const Word* const words = image_words + strip.first_word();
    const unsigned* const component = run_component + strip.slot;
    Value* const strip_out = out + strip.slot;
    const bool fits = runs <= capacity;
    const unsigned width = static_cast<unsigned>(strip.division.width), lane = threadIdx.x % 32;
    const Span<Word> staged = shared_span<Word>(0, blockDim.x);
    const Span<Value> values = shared_span<Value>(blockDim.x * sizeof(Word), capacity);
    if (fits) {
        for (unsigned run = threadIdx.x; run < runs; run += blockDim.x) values[run] = value_of(component[run]);
    }
    WordCursor at(strip, threadIdx.x / 32, blockDim.x / 32);
    for (unsigned first = 0; first < strip.words(); first += blockDim.x) {
        if (first + threadIdx.x < strip.words()) staged[threadIdx.x] = words[first + threadIdx.x];
        __syncthreads();
        const unsigned end = min(first + blockDim.x, strip.words());
        for (; at.number < end; at.advance()) {
            const unsigned x = 32 * at.column + lane;
            if (x >= width) continue;
            const Word word = staged[at.number - first];
            const unsigned run = word.run(lane);
            Value value;
            if (fits)
                value = values[run];
            else
                value = value_of(component[run]);
            strip_out[at.row * width + x] = value;
        }
        __syncthreads();
    }
}

}  // namespace fastia
