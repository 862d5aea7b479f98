// What is done to one row of pixels, once per instruction set: find where runs start, which runs of two rows touch, and
// fill runs.
//
// A run is a maximal span of one id in a row. Bit x of `edges` says that a run starts at x, so the run of a pixel is a
// prefix popcount.
#pragma once
#include <cstdint>

namespace fastia {

constexpr int64_t kRowPadding = 65;   // ids readable past the end of a padded row
constexpr int64_t kListPadding = 64;  // positions, run starts and pairs writable past the last one

inline int64_t words_of(int64_t width) { return (width + 63) / 64; }

// What ignored and background runs belong to; the components of an image count from kFirstComponent.
constexpr uint32_t kNoComponent = 0, kBackgroundComponent = 1, kFirstComponent = 2;

// Two runs of the same id that touch, the upper one in an earlier row.
struct RunPair {
    uint32_t upper, lower;
};

// Which ids form components. Masks are all ones or zero, so that an absent id costs no branch.
template <class Id>
struct Participants {
    Id background, ignored, limit;
    uint64_t background_mask, ignored_mask, limit_mask;
};

// An earlier row, whose runs may touch those of the row that is scanned; `ids` null: there is none.
template <class Id>
struct EarlierRow {
    const Id* ids;
    const uint64_t* edges;
    uint32_t first_run;
    bool corners;  // whether runs that share only a corner touch
};

// One row, and the results of its scan.
template <class Id>
struct RowScan {
    const Id* ids;
    int64_t width;
    bool padded;         // both rows can be read kRowPadding ids past their ends
    uint32_t position;   // of the row's first pixel, added to every run start
    uint32_t first_run;  // index of the row's first run
    EarlierRow<Id> earlier;
    // Results.
    uint64_t* edges;    // words_of(width) words: bit x says that a run starts at x
    uint32_t* starts;   // position of every run
    uint32_t* parents;  // of every run its own index, or kNoComponent, or kBackgroundComponent
    RunPair* pairs;     // runs of one class that touch, from left to right, at most 2 * width
    uint32_t run_count;
    uint32_t pair_count;
};

// How the ids of a map become int32 codes: ignored ids are kIgnoredCode, ids outside 0..maximum kInvalidCode.
constexpr int32_t kIgnoredCode = -1;
constexpr int32_t kInvalidCode = -2;

struct Staging {
    int32_t dtype;   // fastia_dtype
    int64_t stride;  // bytes from pixel to pixel
    bool has_ignored;
    int64_t ignored;
    int64_t maximum;
};

struct RowKernels {
    const char* name;
    void (*scan_uint8)(RowScan<uint8_t>&, const Participants<uint8_t>&);
    void (*scan_int32)(RowScan<int32_t>&, const Participants<int32_t>&);
    // Bits where a run starts.
    void (*edges_uint8)(const uint8_t* row, int64_t width, bool padded, uint64_t* edges);
    void (*edges_int32)(const int32_t* row, int64_t width, bool padded, uint64_t* edges);
    // Positions of set bits, in order. Returns their number.
    uint32_t (*positions)(const uint64_t* bits, int64_t words, uint32_t* out);
    // out[x] = values[index of the run of x]; reads up to 16 values past the last run.
    void (*expand2)(const uint64_t* edges, int64_t width, const uint16_t* values, uint16_t* out);
    void (*expand4)(const uint64_t* edges, int64_t width, const uint32_t* values, uint32_t* out);
    void (*expand8)(const uint64_t* edges, int64_t width, const uint64_t* values, uint64_t* out);
    // Ids to codes; true if one is invalid.
    bool (*stage)(const Staging&, const void* source, int64_t width, int32_t* out);
};

// The best kernels for this processor; FASTIA_CPU in the environment names a lesser set.
const RowKernels& row_kernels();

#if defined(__x86_64__) || defined(_M_X64)
extern const RowKernels kRowsAvx2;
extern const RowKernels kRowsAvx512;
#endif
extern const RowKernels kRowsBaseline;
extern const RowKernels kRowsScalar;

}  // namespace fastia
