// What the kernels on runs share: how images are cut, where scratch memory holds what, union-find, sums over a block.
//
// A run is a maximal span of one id in a row. Rows are cut into words of 32 pixels, images into strips of rows, one
// block each. A strip numbers its runs, and its components, from 0 in raster order; an image numbers the components of
// strip s from s * (pixels of a strip) on, so that a smaller number means an earlier first pixel everywhere.
//
// `Index` holds such a number: unsigned where an image has fewer than 2^31 pixels, else unsigned long long.
#pragma once
#include "core/span.cuh"

namespace fastia {

constexpr unsigned kAllLanes = 0xFFFFFFFFu;
// In place of a class.
constexpr unsigned kBackgroundClass = 0xFFFFFFFEu, kIgnoredClass = 0xFFFFFFFFu;
// In place of a component: what runs of such classes belong to.
constexpr unsigned kBackgroundComponent = kBackgroundClass, kNoComponent = kIgnoredClass;
constexpr unsigned kLargestClass = 65535;

// Whether a component is one, or a class forms some.
__device__ inline bool is_component(unsigned component_or_class) { return component_or_class < kBackgroundComponent; }

// Images and the strips that they are cut into.
struct Division {
    long long height, width, rows;  // rows of a strip

    __device__ unsigned words_per_row() const { return static_cast<unsigned>((width + 31) >> 5); }
    __device__ unsigned strips() const {
        return static_cast<unsigned>(height + rows - 1) /
               static_cast<unsigned>(rows);  // not of 64 bits: 4 times as fast
    }
    __device__ long long pixels() const { return height * width; }
    __device__ long long strip_pixels() const { return rows * width; }
};

// One strip of one image: what a block works on.
struct Strip {
    Division division;
    unsigned image, number, first_row, rows, words_per_row;
    long long slot;  // first of the strip's elements in arrays [images, pixels], of runs or components

    __device__ Strip(const Division& division_, unsigned image_, unsigned number_)
        : division(division_),
          image(image_),
          number(number_),
          first_row(static_cast<unsigned>(number * division.rows)),
          rows(static_cast<unsigned>(min(division.rows, division.height - first_row))),
          words_per_row(division.words_per_row()),
          slot(image * division.pixels() + component_base()) {}
    // The first word in [images, rows, words].
    __device__ long long first_word() const { return (image * division.height + first_row) * words_per_row; }
    // The number in the image of component 0, and the slot of the component that is number 0 in the image.
    __device__ long long component_base() const { return number * division.strip_pixels(); }
    __device__ long long image_slot() const { return image * division.pixels(); }
    __device__ unsigned words() const { return rows * words_per_row; }
    __device__ unsigned pixels() const { return static_cast<unsigned>(rows * division.width); }
    // Pixels of a word that lie in the image.
    __device__ unsigned word_width(unsigned column) const {
        return static_cast<unsigned>(min(32LL, division.width - 32LL * column));
    }
};

// The strip of this block, where a block works on one strip.
__device__ inline Strip strip_of_block(const Division& division) {
    return Strip(division, blockIdx.x / division.strips(), blockIdx.x % division.strips());
}

// Goes through what lies in rows of `columns`, `step` of them at a time, without a division for each.
struct Cursor {
    unsigned number, row, column;

    __device__ Cursor(unsigned first, unsigned step, unsigned columns)
        : number(first),
          row(first / columns),
          column(first % columns),
          columns_(columns),
          step_(step),
          row_step_(step / columns),
          column_step_(step % columns) {}
    __device__ void advance() {
        number += step_;
        row += row_step_;
        column += column_step_;
        if (column >= columns_) {
            column -= columns_;
            ++row;
        }
    }

  private:
    unsigned columns_, step_, row_step_, column_step_;
};

// The words of a strip, one for each thread of the block at a time.
__device__ inline Cursor words_of_thread(const Strip& strip) {
    return Cursor(threadIdx.x, blockDim.x, strip.words_per_row);
}

// 32 pixels of a row: bit x of `edges` says that a run starts there; `runs_before` counts the strip's runs up to it.
struct __align__(8) Word32 {
    unsigned edges, runs_before;

    // The run of pixel x.
    __device__ unsigned run(unsigned x) const { return runs_before + __popc(edges & ((2u << x) - 1)) - 1; }
};

struct __align__(8) StripCounts {
    unsigned runs, components;
};

// What is known of the images of a batch, or of some of them: how they are cut, their runs and their components. What
// belongs to the runs or the components of a strip lies in the strip's slots of arrays [images, pixels]. What an
// operation does not need is nullptr.
template <class Index>
struct Labelling {
    Division division;
    Word32* words;                    // [images, height, words]
    StripCounts* counts;              // [images, strips]
    unsigned* run_component;          // of each run, in the strip
    Index* component_parent;          // of each component, in the image: its root once `flatten` has run
    unsigned short* component_class;  // of each component
    unsigned* first_run;              // of each component, in the strip
    unsigned* area;                   // of each component: pixels in the strip
    Index* total;                     // the same, to which `flatten` adds at roots
    Index* class_total;               // [images, classes] pixels, once `flatten` has run
    long long classes;                // 1: all classes together
    unsigned* rank;                   // of roots, among those of their strip
    unsigned* strip_roots;            // [images, strips] roots, then those of the strips before
    unsigned* arrivals;               // [images] blocks of `flatten` that have counted their roots
};

// The smallest element of a set is its root. Parents are never larger than their children.
template <class Index>
__device__ Index find(Span<Index> parent, Index element) {
    Index root = parent.load(element);
    if (root == element) return root;
    for (Index above = parent.load(root); above != root; above = parent.load(root)) {
        parent.store(element, above);  // other threads then walk half as far, and so do we through theirs
        root = above;
    }
    return root;
}

template <class Index>
__device__ void unite(Span<Index> parent, Index a, Index b) {
    for (;;) {
        a = find(parent, a);
        b = find(parent, b);
        if (a == b) return;
        const Index larger = max(a, b), smaller = min(a, b);
        const Index before = atomicMin(&parent[larger], smaller);
        if (before == larger) return;
        a = before;  // another thread gave `larger` a parent meanwhile
        b = smaller;
    }
}

// Calls visit(upper run, lower run) for pairs of runs of two adjacent rows that touch where one of them starts, at
// pixel x of a word; so once for each pair of runs, over all x. `visit` returns whether both are of one class, in which
// case their neighbours in the rows are of others, or united with them already. `first` says that the word begins its
// row.
template <class Visit>
__device__ void visit_contacts(const Word32& upper, const Word32& lower, unsigned x, bool first, bool diagonal,
                               Visit visit) {
    const unsigned upper_run = upper.run(x), lower_run = lower.run(x);
    if (visit(upper_run, lower_run) || !diagonal) return;
    // Where one run alone starts, its neighbour across the corner is the run that it lies under or over.
    if ((upper.edges >> x & lower.edges >> x & 1) && !(first && x == 0)) {
        visit(upper_run - 1, lower_run);
        visit(upper_run, lower_run - 1);
    }
}

// The sum of `value` over the threads of the block before this one, and over all. `sums` has room for 32.
__device__ inline unsigned sum_before(unsigned value, Span<unsigned> sums, unsigned* all) {
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    unsigned sum = value;
    for (unsigned step = 1; step < 32; step *= 2) {
        const unsigned below = __shfl_up_sync(kAllLanes, sum, step);
        if (lane >= step) sum += below;
    }
    if (lane == 31) sums[warp] = sum;
    __syncthreads();
    unsigned before = 0;
    *all = 0;
    for (unsigned w = 0; w < blockDim.x / 32; ++w) {
        const unsigned of_warp = sums[w];
        if (w < warp) before += of_warp;
        *all += of_warp;
    }
    __syncthreads();  // `sums` may be written again
    return before + sum - value;
}
constexpr unsigned kSumsBytes = 32 * sizeof(unsigned);

// Sum, minimum and maximum over the lanes of a mask, in each of them. GPUs before sm_80 have no instruction for these:
// there a lane asks the others one after the other.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
template <class Combine>
__device__ unsigned over_lanes(unsigned lanes, unsigned value, unsigned result, Combine combine) {
    for (unsigned rest = lanes; rest; rest &= rest - 1) {
        const unsigned other = __shfl_sync(lanes, value, __ffs(rest) - 1);
        result = combine(result, other);
    }
    return result;
}
__device__ inline unsigned sum_over(unsigned lanes, unsigned value) {
    return over_lanes(lanes, value, 0, [](unsigned a, unsigned b) { return a + b; });
}
__device__ inline unsigned smallest_over(unsigned lanes, unsigned value) {
    return over_lanes(lanes, value, value, [](unsigned a, unsigned b) { return a < b ? a : b; });
}
__device__ inline unsigned largest_over(unsigned lanes, unsigned value) {
    return over_lanes(lanes, value, value, [](unsigned a, unsigned b) { return a > b ? a : b; });
}
#else
__device__ inline unsigned sum_over(unsigned lanes, unsigned value) { return __reduce_add_sync(lanes, value); }
__device__ inline unsigned smallest_over(unsigned lanes, unsigned value) { return __reduce_min_sync(lanes, value); }
__device__ inline unsigned largest_over(unsigned lanes, unsigned value) { return __reduce_max_sync(lanes, value); }
#endif

// The lanes that hold one key combine their values. All lanes of the warp take part. Reductions of different groups of
// lanes run one after another, so a lane that is alone with its key skips its own.
template <class Key>
struct Peers {
    unsigned lanes;

    __device__ explicit Peers(Key key) : lanes(__match_any_sync(kAllLanes, key)) {}
    __device__ bool several() const { return lanes & (lanes - 1); }
    __device__ bool first() const { return threadIdx.x % 32 == static_cast<unsigned>(__ffs(lanes)) - 1; }
    __device__ unsigned sum(unsigned value) const { return several() ? sum_over(lanes, value) : value; }
    __device__ unsigned smallest(unsigned value) const { return several() ? smallest_over(lanes, value) : value; }
    __device__ unsigned largest(unsigned value) const { return several() ? largest_over(lanes, value) : value; }
};

}  // namespace fastia
