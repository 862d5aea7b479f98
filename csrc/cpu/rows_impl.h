// The row kernels, written once over the few vector operations of simd.h; included by one source file per instruction
// set.
#pragma once
#include <cstring>

#include "fastia.h"
#include "rows.h"
#include "simd.h"

namespace fastia {
namespace {

uint32_t positions(const uint64_t* bits, int64_t words, uint32_t* out) {
    uint32_t count = 0;
    for (int64_t w = 0; w < words; ++w)
        count += simd::append_positions(bits[w], static_cast<uint32_t>(64 * w), out + count);
    return count;
}

// 64 pixels of a row and the one after them, copied where reading past the end of the row is not allowed.
template <class Id>
struct Window {
    Id copy[64 + 64 / sizeof(Id)];
    const Id* at(const Id* row, int64_t word, int64_t width, bool padded) {
        const int64_t rest = width - 64 * word;
        if (padded || rest > 64) return row + 64 * word;
        std::memset(copy, 0, sizeof copy);
        std::memcpy(copy, row + 64 * word, rest * sizeof(Id));
        return copy;
    }
};

inline uint64_t valid_bits(int64_t word, int64_t width) {
    const int64_t rest = width - 64 * word;
    return rest >= 64 ? ~uint64_t{0} : simd::up_to(static_cast<int>(rest) - 1);
}

template <class Id>
void scan_row(RowScan<Id>& scanned, const Participants<Id>& participants) {
    // Copies, which no store below can change: the compiler keeps them in registers.
    const RowScan<Id> row = scanned;
    const Participants<Id> ids = participants;
    const int64_t words = words_of(row.width);
    Window<Id> current_window, above_window;
    uint64_t carry_edge = 1, carry_touch = 0, carry_left = 0;
    uint32_t runs = 0, run_above = row.first_above, pairs = 0;
    for (int64_t w = 0; w < words; ++w) {
        const Id* p = current_window.at(row.current, w, row.width, row.padded);
        const uint64_t valid = valid_bits(w, row.width);
        const uint64_t ends = ~simd::equal(p, p + 1);
        const uint64_t edges = (ends << 1 | carry_edge) & valid;
        carry_edge = ends >> 63;
        row.edges[w] = edges;
        const uint64_t edges_above = row.above ? row.edges_above[w] : 0;
        if ((edges | edges_above | ends) == 0) continue;  // both rows go on as they were

        uint64_t possible = valid & ~(simd::equal_to(p, ids.ignored) & ids.ignored_mask);
        if (ids.limit_mask) possible &= ~simd::at_least(p, ids.limit);
        const uint64_t background = possible & simd::equal_to(p, ids.background) & ids.background_mask;
        const uint64_t taking_part = possible & ~background;
        if (row.above) {
            const Id* u = above_window.at(row.above, w, row.width, row.padded);
            const uint64_t touch = simd::equal(p, u) & taking_part;
            const uint64_t overlap_starts = touch & ~((touch << 1 | carry_touch) & ~edges & ~edges_above);
            carry_touch = touch >> 63;
            uint64_t left = 0, right = 0;
            if (ids.diagonal) {
                const uint64_t equal_left = simd::equal(p + 1, u);
                left = edges & ~touch & (equal_left << 1 | carry_left) & taking_part;
                carry_left = equal_left >> 63;
                const uint64_t inside = row.width - 64 * w <= 64 ? valid >> 1 : valid;
                right = ends & ~touch & simd::equal(p, u + 1) & taking_part & inside;
            }
            pairs += simd::append_pairs(overlap_starts, left, right, edges, edges_above, row.first_current + runs,
                                        run_above, row.pairs + pairs);
            run_above += simd::popcount(edges_above);
        }
        const uint32_t position = row.position + static_cast<uint32_t>(64 * w);
        simd::append_parents(edges, taking_part, background, row.first_current + runs, row.parents + runs);
        runs += simd::append_positions(edges, position, row.starts + runs);
    }
    scanned.run_count = runs;
    scanned.pair_count = pairs;
}

template <class Id>
void edges_of(const Id* row, int64_t width, bool padded, uint64_t* edges) {
    Window<Id> window;
    uint64_t carry = 1;
    for (int64_t w = 0; w < words_of(width); ++w) {
        const Id* p = window.at(row, w, width, padded);
        const uint64_t ends = ~simd::equal(p, p + 1);
        edges[w] = (ends << 1 | carry) & valid_bits(w, width);
        carry = ends >> 63;
    }
}

template <class Source>
bool stage_as(const Staging& staging, const char* source, int64_t width, int32_t* out) {
    const bool has_ignored = staging.has_ignored;
    const Source ignored = static_cast<Source>(staging.ignored);
    const int64_t maximum = staging.maximum;
    int32_t invalid = 0;
    const auto code = [&](const char* p) {
        Source id;
        std::memcpy(&id, p, sizeof id);
        const bool allowed = (id >= 0) & (static_cast<int64_t>(id) <= maximum);
        const int32_t value = allowed ? static_cast<int32_t>(id) : kInvalid;
        return (has_ignored & (id == ignored)) ? kIgnored : value;
    };
    if (staging.stride == sizeof(Source)) {
        for (int64_t x = 0; x < width; ++x) {
            out[x] = code(source + x * sizeof(Source));
            invalid |= out[x] == kInvalid;
        }
    } else {
        for (int64_t x = 0; x < width; ++x) {
            out[x] = code(source + x * staging.stride);
            invalid |= out[x] == kInvalid;
        }
    }
    return invalid;
}

bool stage(const Staging& staging, const void* source, int64_t width, int32_t* out) {
    const char* p = static_cast<const char*>(source);
    switch (staging.dtype) {
        case FASTIA_INT16:
            return stage_as<int16_t>(staging, p, width, out);
        case FASTIA_UINT16:
            return stage_as<uint16_t>(staging, p, width, out);
        case FASTIA_INT32:
            return stage_as<int32_t>(staging, p, width, out);
        case FASTIA_INT64:
            return stage_as<int64_t>(staging, p, width, out);
        default:
            return stage_as<uint8_t>(staging, p, width, out);
    }
}

}  // namespace

#define FASTIA_ROW_KERNELS(name)                                                            \
    {name,      scan_row<uint8_t>, scan_row<int32_t>, edges_of<uint8_t>, edges_of<int32_t>, \
     positions, simd::expand2,     simd::expand4,     simd::expand8,     stage}

}  // namespace fastia
