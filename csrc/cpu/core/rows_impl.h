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

// Where the runs of 64 pixels start and end, and which of them take part.
struct WordRuns {
    uint64_t edges, ends;  // bit x: a run starts at x; the run of x ends there
    uint64_t taking_part, background;
};

// `carry_edge`: whether the first pixel starts a run; then whether the one after the word does.
template <class Id>
inline WordRuns find_runs(const Id* p, uint64_t valid, const Participants<Id>& ids, uint64_t* carry_edge) {
    WordRuns word{};
    word.ends = ~simd::equal(p, p + 1);
    word.edges = (word.ends << 1 | *carry_edge) & valid;
    *carry_edge = word.ends >> 63;
    uint64_t possible = valid & ~(simd::equal_to(p, ids.ignored) & ids.ignored_mask);
    if (ids.limit_mask) possible &= ~simd::at_least(p, ids.limit);
    word.background = possible & simd::equal_to(p, ids.background) & ids.background_mask;
    word.taking_part = possible & ~word.background;
    return word;
}

// What goes on from word to word of two rows: the first run of the earlier row's word, and which last pixels touch.
struct Touching {
    uint32_t earlier_run;
    uint64_t touch = 0, left = 0;
};

// The pairs of runs of one class that touch between 64 pixels `p` of a row and `u` of an earlier one, from left to
// right.
template <class Id>
inline uint32_t touching_pairs(const Id* p, const Id* u, const WordRuns& word, uint64_t earlier_edges, uint64_t valid,
                               bool corners, uint32_t run, Touching* state, RunPair* pairs) {
    // Runs overlap first where one of them starts, or where the pixels before did not touch.
    const uint64_t touch = simd::equal(p, u) & word.taking_part;
    const uint64_t overlap_starts = touch & ~((touch << 1 | state->touch) & ~word.edges & ~earlier_edges);
    state->touch = touch >> 63;
    uint64_t left = 0, right = 0;
    if (corners) {
        const uint64_t equal_left = simd::equal(p + 1, u);
        left = word.edges & ~touch & (equal_left << 1 | state->left) & word.taking_part;
        state->left = equal_left >> 63;
        right = word.ends & ~touch & simd::equal(p, u + 1) & word.taking_part & valid;
    }
    const uint32_t count =
        simd::append_pairs(overlap_starts, left, right, word.edges, earlier_edges, run, state->earlier_run, pairs);
    state->earlier_run += simd::popcount(earlier_edges);
    return count;
}

template <class Id>
void scan_row(RowScan<Id>& scanned, const Participants<Id>& participants) {
    // Copies, which no store below can change: the compiler keeps them in registers.
    const RowScan<Id> row = scanned;
    const Participants<Id> ids = participants;
    Window<Id> window, earlier_window;
    Touching state{row.earlier.first_run};
    uint64_t carry_edge = 1;
    uint32_t runs = 0, pairs = 0;
    for (int64_t w = 0; w < words_of(row.width); ++w) {
        const Id* p = window.at(row.ids, w, row.width, row.padded);
        const uint64_t valid = valid_bits(w, row.width);
        const WordRuns word = find_runs(p, valid, ids, &carry_edge);
        row.edges[w] = word.edges;
        const uint64_t earlier_edges = row.earlier.ids ? row.earlier.edges[w] : 0;
        if ((word.edges | earlier_edges | word.ends) == 0) continue;  // both rows go on as they were
        if (row.earlier.ids) {
            const Id* u = earlier_window.at(row.earlier.ids, w, row.width, row.padded);
            const uint64_t inside = row.width - 64 * w <= 64 ? valid >> 1 : valid;  // with a pixel to the right
            pairs += touching_pairs(p, u, word, earlier_edges, inside, row.earlier.corners, row.first_run + runs,
                                    &state, row.pairs + pairs);
        }
        simd::append_parents(word.edges, word.taking_part, word.background, row.first_run + runs, row.parents + runs);
        runs += simd::append_positions(word.edges, row.position + static_cast<uint32_t>(64 * w), row.starts + runs);
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

#define FASTIA_ROW_KERNELS(name)                                                            \
    {name,      scan_row<uint8_t>, scan_row<int32_t>, edges_of<uint8_t>, edges_of<int32_t>, \
     positions, simd::expand2,     simd::expand4,     simd::expand8,     stage}

}  // namespace fastia
