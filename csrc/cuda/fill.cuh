// Kernel 4, but for what it writes: the value of its component to every pixel of a strip.
#pragma once
#include "runs.cuh"

namespace fastia {

// Values of runs lie in shared memory where there is room; else each pixel asks for its own.
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

}  // namespace fastia
