// Where runs start: ids read in place, 32 pixels of a row to a bit mask.
#pragma once
#include "core/runs.cuh"

namespace fastia {

enum Dtype : long long { kUint8, kInt16, kUint16, kInt32, kInt64 };

// Ids of some images, in place.
struct Masks {
    const char* data;
    long long image_stride, row_stride, column_stride;  // bytes
    const char *begin, *end;                            // of the memory that the whole batch spans
    long long dtype;                                    // a Dtype, for kernels that are compiled for all of them

    __device__ const char* at(long long image, long long y, long long x) const {
        return data + image * image_stride + y * row_stride + x * column_stride;
    }
    template <class Id>
    __device__ Id id(long long image, long long y, long long x) const {
        return *reinterpret_cast<const Id*>(at(image, y, x));
    }
};

struct __align__(16) Vector {
    unsigned word[4];
};

// Bit x: byte x differs from the byte before it, that of byte 0 being `before`. Reads whole vectors around the 32
// bytes.
__device__ inline unsigned edges_of_bytes(const char* bytes, unsigned before) {
    const unsigned offset = static_cast<unsigned>(reinterpret_cast<unsigned long long>(bytes) % sizeof(Vector));
    const Vector* vectors = reinterpret_cast<const Vector*>(bytes - offset);
    unsigned word[12];
    for (int v = 0; v < 3; ++v) {
        const Vector vector = vectors[v];
        for (int i = 0; i < 4; ++i) word[4 * v + i] = vector.word[i];
    }
    // Indices known to the compiler keep the words in registers.
    if (offset & 8)
        for (int i = 0; i < 10; ++i) word[i] = word[i + 2];
    if (offset & 4)
        for (int i = 0; i < 9; ++i) word[i] = word[i + 1];
    unsigned edges = 0, last = before << 24;
    for (int i = 0; i < 8; ++i) {
        const unsigned own = __funnelshift_r(word[i], word[i + 1], offset % 4 * 8);
        const unsigned changes = own ^ __funnelshift_l(last, own, 8);
        const unsigned differs =
            (((changes & 0x7F7F7F7Fu) + 0x7F7F7F7Fu) | changes) & 0x80808080u;  // in bit 7 of bytes
        edges |= (differs >> 7) * 0x01020408u >> 24 << 4 * i;
        last = own;
    }
    return edges;
}

// The edges of the word at `own` of each lane, 0 past the strip's end. The lanes hold 32 adjacent words of the strip.
template <class Id>
__device__ unsigned find_edges(const Masks& masks, const Strip& strip, const Cursor& own) {
    const unsigned lane = threadIdx.x % 32;
    const long long width = strip.division.width;
    unsigned edges = 0;
    bool found = own.number >= strip.words();
    if (sizeof(Id) == 1 && masks.column_stride == 1 && !found) {
        const long long x = 32LL * own.column;
        const char* const bytes = masks.at(strip.image, strip.first_row + own.row, x);
        if (bytes - 15 >= masks.begin && bytes + 48 <= masks.end) {
            found = true;
            const unsigned before = static_cast<unsigned char>(x ? bytes[-1] : ~bytes[0]);
            edges = edges_of_bytes(bytes, before);
            if (strip.word_width(own.column) < 32) edges &= (1u << strip.word_width(own.column)) - 1;
        }
    }

    // The other words one after the other, a lane for each pixel; some at a time, to have more loads under way.
    constexpr unsigned kAtATime = 4;
    const unsigned missing = __ballot_sync(kAllLanes, !found);
    unsigned row = __shfl_sync(kAllLanes, own.row, 0), column = __shfl_sync(kAllLanes, own.column, 0);
    for (unsigned first = 0; first < 32 && missing >> first; first += kAtATime) {
        bool edge[kAtATime];
        for (unsigned i = 0; i < kAtATime; ++i) {
            const unsigned x = 32 * column + lane, inside = min(x, static_cast<unsigned>(width - 1));
            const char* const at = masks.at(strip.image, strip.first_row + min(row, strip.rows - 1), inside);
            const Id id = *reinterpret_cast<const Id*>(at);
            const Id before = *reinterpret_cast<const Id*>(at - (inside > 0 ? masks.column_stride : 0));
            edge[i] = x == 0 || (x < width && id != before);
            if (++column == strip.words_per_row) column = 0, ++row;
        }
        for (unsigned i = 0; i < kAtATime; ++i) {
            const unsigned all = __ballot_sync(kAllLanes, edge[i]);
            if (lane == first + i && !found) edges = all;
        }
    }
    return edges;
}

}  // namespace fastia
