// Kernel 4 of label and components, and the tables of components.
#include "fill.cuh"

namespace fastia {

// A component's label: the roots of the strips before that of its root, and of that strip up to it.
template <class Index>
struct Labels {
    const Index* parent;          // [pixels] of the image, roots since flatten
    const unsigned* rank;         // [pixels] of roots, in their strips
    const unsigned* strip_roots;  // [strips] roots before each
    Index strip_pixels;

    __device__ Labels(const Division& division, const Strip& strip, const Index* component_parent,
                      const unsigned* root_rank, const unsigned* roots_before)
        : parent(component_parent + (strip.slot - strip.component_base)),
          rank(root_rank + (strip.slot - strip.component_base)),
          strip_roots(roots_before + strip.image * division.strips()),
          strip_pixels(static_cast<Index>(division.strip_pixels())) {}
    __device__ int of(Index component) const {
        const Index root = parent[component];
        return static_cast<int>(strip_roots[root / strip_pixels] + rank[root] + 1);
    }
};

template <class Index>
__device__ void fill_labels(const Division& division, const StripCounts* counts, const Word* words,
                            const unsigned* run_component, const Index* component_parent, const unsigned* rank,
                            const unsigned* strip_roots, unsigned capacity, int* out) {
    const Strip strip = strip_of_block(division);
    const Labels<Index> labels(division, strip, component_parent, rank, strip_roots);
    fill_strip(strip, division, counts[blockIdx.x].runs, words, run_component, capacity, out, [&](unsigned component) {
        return is_component(component) ? labels.of(static_cast<Index>(strip.component_base + component)) : 0;
    });
}

// The tables of the components of a batch, [images, K], in label order.
struct Tables {
    long long columns;  // K
    int* class_id;
    long long* area;
    int* box;  // [images, K, 4] y0, x0, y1, x1

    __device__ void set(long long image, long long column, int class_of, long long pixels, int y0, int x0, int y1,
                        int x1) const {
        const long long at = image * columns + column;
        class_id[at] = class_of;
        area[at] = pixels;
        box[4 * at] = y0;
        box[4 * at + 1] = x0;
        box[4 * at + 2] = y1;
        box[4 * at + 3] = x1;
    }
    // Columns first, first + step, ... of an image are none.
    __device__ void pad(long long image, long long first, long long step) const {
        for (long long column = first; column < columns; column += step) set(image, column, -1, 0, 0, 0, 0, 0);
    }
};

template <class Index>
__device__ void fill_tables(const Division& division, const StripCounts* counts, const Index* component_parent,
                            const unsigned short* component_class, const Index* total, const unsigned* box,
                            long long box_stride, const unsigned* rank, const unsigned* strip_roots, const int* count,
                            const Tables& tables) {
    const Strip strip = strip_of_block(division);
    const Labels<Index> labels(division, strip, component_parent, rank, strip_roots);
    for (unsigned number = threadIdx.x; number < counts[blockIdx.x].components; number += blockDim.x) {
        const Index component = static_cast<Index>(strip.component_base + number);
        if (labels.parent[component] != component) continue;
        const long long column = labels.of(component) - 1LL, slot = strip.slot + number;
        if (column >= tables.columns) continue;
        const unsigned* corner = box + slot;
        tables.set(strip.image, column, component_class[slot], static_cast<long long>(total[slot]),
                   static_cast<int>(corner[0]), static_cast<int>(corner[box_stride]),
                   static_cast<int>(corner[2 * box_stride]), static_cast<int>(corner[3 * box_stride]));
    }
    tables.pad(strip.image, count[strip.image] + strip.number * blockDim.x + threadIdx.x,
               static_cast<long long>(division.strips()) * blockDim.x);
}

}  // namespace fastia

#define FASTIA_LABELS(name, Index)                                                                                     \
    extern "C" __global__ void fastia_fill_labels_##name(                                                              \
        long long height, long long width, long long rows, const fastia::StripCounts* counts,                          \
        const fastia::Word* words, const unsigned* run_component, const Index* component_parent, const unsigned* rank, \
        const unsigned* strip_roots, long long capacity, int* labels) {                                                \
        fastia::fill_labels<Index>({height, width, rows}, counts, words, run_component, component_parent, rank,        \
                                   strip_roots, static_cast<unsigned>(capacity), labels);                              \
    }                                                                                                                  \
    extern "C" __global__ void fastia_fill_tables_##name(                                                              \
        long long height, long long width, long long rows, const fastia::StripCounts* counts,                          \
        const Index* component_parent, const unsigned short* component_class, const Index* total, const unsigned* box, \
        long long box_stride, const unsigned* rank, const unsigned* strip_roots, const int* count, long long columns,  \
        int* class_id, long long* area, int* bbox) {                                                                   \
        fastia::fill_tables<Index>({height, width, rows}, counts, component_parent, component_class, total, box,       \
                                   box_stride, rank, strip_roots, count, {columns, class_id, area, bbox});             \
    }

FASTIA_LABELS(32, unsigned)
FASTIA_LABELS(64, unsigned long long)

// Tables of images without pixels, one block each.
extern "C" __global__ void fastia_empty_tables(int* count, long long columns, int* class_id, long long* area,
                                               int* bbox) {
    if (threadIdx.x == 0) count[blockIdx.x] = 0;
    fastia::Tables{columns, class_id, area, bbox}.pad(blockIdx.x, threadIdx.x, blockDim.x);
}
