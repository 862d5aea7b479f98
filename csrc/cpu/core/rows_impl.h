// The row kernels, written once over the few vector operations of simd.h; included by one source file per instruction
// set.
#pragma once
#include <cstring>

#include "core/fastia.h"
#include "core/rows.h"
#include "core/simd.h"

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
uint32_t find_runs(const RunRow<Id>& row, const Participants<Id>& participants, uint32_t position, uint32_t* starts,
                   uint32_t* parents) {
    const Participants<Id> ids = participants;  // a copy, which no store below can change, stays in registers
    Window<Id> window;
    uint64_t carry_edge = 1, carry_taking = 0;
    uint32_t runs = 0;
    for (int64_t w = 0; w < words_of(row.width); ++w) {
        const Id* p = window.at(row.ids, w, row.width, row.padded);
        const uint64_t valid = valid_bits(w, row.width);
        const uint64_t ends = ~simd::equal(p, p + 1);
        const uint64_t edges = (ends << 1 | carry_edge) & valid;
        carry_edge = ends >> 63;
        row.edges[w] = edges;
        if (edges == 0) {  // the run of the word before goes on
            row.taking_part[w] = valid & carry_taking;
            continue;
        }
        uint64_t possible = valid & ~(simd::equal_to(p, ids.ignored) & ids.ignored_mask);
        if (ids.limit_mask) possible &= ~simd::at_least(p, ids.limit);
        const uint64_t background = possible & simd::equal_to(p, ids.background) & ids.background_mask;
        const uint64_t taking_part = possible & ~background;
        row.taking_part[w] = taking_part;
        carry_taking = taking_part >> 63 ? ~uint64_t{0} : 0;
        simd::append_parents(edges, taking_part, background, row.first_run + runs, parents + runs);
        runs += simd::append_positions(edges, position + static_cast<uint32_t>(64 * w), starts + runs);
    }
    return runs;
}

template <class Id>
uint32_t touching_pairs(const RunRow<Id>& row, const RunRow<Id>& earlier, bool corners, RunPair* pairs) {
    const int64_t words = words_of(row.width);
    Window<Id> window, earlier_window;
    uint64_t edges = row.edges[0], carry_touch = 0, carry_left = 0;
    uint32_t run = row.first_run, earlier_run = earlier.first_run, count = 0;
    for (int64_t w = 0; w < words; ++w) {
        const uint64_t next = w + 1 < words ? row.edges[w + 1] : 0, earlier_edges = earlier.edges[w];
        const uint64_t ends = edges >> 1 | next << 63;
        if ((edges | earlier_edges | ends) != 0) {  // else both rows go on as they were
            const Id* p = window.at(row.ids, w, row.width, row.padded);
            const Id* u = earlier_window.at(earlier.ids, w, row.width, row.padded);
            const uint64_t taking_part = row.taking_part[w];
            // Runs overlap first where one of them starts, or where the pixels before did not touch.
            const uint64_t touch = simd::equal(p, u) & taking_part;
            const uint64_t overlap_starts = touch & ~((touch << 1 | carry_touch) & ~edges & ~earlier_edges);
            carry_touch = touch >> 63;
            uint64_t left = 0, right = 0;
            if (corners) {
                const uint64_t equal_left = simd::equal(p + 1, u);
                left = edges & ~touch & (equal_left << 1 | carry_left) & taking_part;
                carry_left = equal_left >> 63;
                right = ends & ~touch & simd::equal(p, u + 1) & taking_part;
            }
            count +=
                simd::append_pairs(overlap_starts, left, right, edges, earlier_edges, run, earlier_run, pairs + count);
            run += simd::popcount(edges);
            earlier_run += simd::popcount(earlier_edges);
        }
        edges = next;
    }
    return count;
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
        const int32_t value = allowed ? static_cast<int32_t>(id) : kInvalidCode;
        return (has_ignored & (id == ignored)) ? kIgnoredCode : value;
    };
    if (staging.stride == sizeof(Source)) {
        for (int64_t x = 0; x < width; ++x) {
            out[x] = code(source + x * sizeof(Source));
            invalid |= out[x] == kInvalidCode;
        }
    } else {
        for (int64_t x = 0; x < width; ++x) {
            out[x] = code(source + x * staging.stride);
            invalid |= out[x] == kInvalidCode;
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

#define FASTIA_ROW_KERNELS(name) \
    {name,                       \
     find_runs<uint8_t>,         \
     find_runs<int32_t>,         \
     touching_pairs<uint8_t>,    \
     touching_pairs<int32_t>,    \
     edges_of<uint8_t>,          \
     edges_of<int32_t>,          \
     positions,                  \
     simd::expand2,              \
     simd::expand4,              \
     simd::expand8,              \
     stage}

}  // namespace fastia
