// Kernel 4, but for what it writes: the value of its component to every pixel of a strip.
#pragma once
#include "core/runs.cuh"

namespace fastia {

// Four values, written at once.
template <class Value>
struct __align__(sizeof(Value) < 4 ? 4 * sizeof(Value) : 16) Quad {
    Value value[4];
};

// Four adjacent pixels a thread, from an address on that suits a Quad, whatever the width; fewer at the ends of rows.
template <class Value>
__device__ void fill_quads(const Strip& strip, Span<Word32> words, Span<Value> values, Value* out) {
    const unsigned width = static_cast<unsigned>(strip.division.width);
    const unsigned past = static_cast<unsigned>(reinterpret_cast<unsigned long long>(out) / sizeof(Value));
    const unsigned quads = (width + 6) / 4;  // the most that have pixels of a row
    for (Cursor at(threadIdx.x, blockDim.x, quads); at.row < strip.rows; at.advance()) {
        const unsigned pixel = at.row * width;
        const int first = static_cast<int>(4 * at.column) - static_cast<int>((past + pixel) % 4);
        const int x = max(first, 0), count = min(first + 4, static_cast<int>(width)) - x;
        if (count <= 0) continue;
        const unsigned column = x / 32, number = at.row * strip.words_per_row + column;
        const Word32 word = words[number];
        const unsigned next = column + 1 < strip.words_per_row ? static_cast<Word32>(words[number + 1]).edges : 0;
        const unsigned edges = __funnelshift_r(word.edges, next, x);
        unsigned run = word.run(x % 32);
        Quad<Value> quad;
        quad.value[0] = values[run];
        for (int i = 1; i < 4; ++i) {
            quad.value[i] = quad.value[i - 1];
            if (edges >> i & 1) quad.value[i] = values[++run];
        }
        Value* const to = out + pixel + x;
        if (count == 4) {
            *reinterpret_cast<Quad<Value>*>(to) = quad;
        } else {
            for (int i = 0; i < 4; ++i)
                if (i < count) to[i] = quad.value[i];
        }
    }
}

// Words and the values of runs go through shared memory where there is room; else each pixel asks for its own.
template <class Index, class Value, class ValueOf>
__device__ void fill_strip(const Strip& strip, const Labelling<Index>& labelling, unsigned word_capacity,
                           unsigned run_capacity, Value* out, ValueOf value_of) {
    const unsigned runs = labelling.counts[blockIdx.x].runs;
    const Word32* const words = labelling.words + strip.first_word();
    const unsigned* const component = labelling.run_component + strip.slot;
    Value* const strip_out = out + strip.slot;
    if (runs <= run_capacity && strip.words() <= word_capacity) {
        const Span<Word32> staged = shared_span<Word32>(0, word_capacity);
        const Span<Value> values = shared_span<Value>(word_capacity * sizeof(Word32), run_capacity);
        for (unsigned word = threadIdx.x; word < strip.words(); word += blockDim.x) staged[word] = words[word];
        for (unsigned run = threadIdx.x; run < runs; run += blockDim.x) values[run] = value_of(component[run]);
        __syncthreads();
        fill_quads(strip, staged, values, strip_out);
    } else {
        const unsigned width = static_cast<unsigned>(strip.division.width);
        for (Cursor at(threadIdx.x, blockDim.x, width); at.row < strip.rows; at.advance()) {
            const Word32 word = words[at.row * strip.words_per_row + at.column / 32];
            strip_out[at.number] = value_of(component[word.run(at.column % 32)]);
        }
    }
}

}  // namespace fastia
