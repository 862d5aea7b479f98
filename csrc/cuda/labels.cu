// Kernel 4 of label and components, and the tables of components.
#include "fill.cuh"
#include "ranks.cuh"

namespace fastia {

template <class Index>
__device__ void fill_labels(const Division& division, const StripCounts* counts, const Word* words,
                            const unsigned* run_component, const Index* component_parent, const unsigned* rank,
                            const unsigned* strip_roots, unsigned word_capacity, unsigned capacity, int* out) {
    const Strip strip = strip_of_block(division);
    const Labels<Index> labels(strip, component_parent, rank, strip_roots);
    fill_strip(
        strip, counts[blockIdx.x].runs, words, run_component, word_capacity, capacity, out, [&](unsigned component) {
            return is_component(component) ? labels.of(static_cast<Index>(strip.component_base() + component)) : 0;
        });
}

// The tables of the components of a batch, [images, K], in label order.
struct Tables {
    long long columns;  // K
    int* class_id;
    long long* area;
    int* box;  // [images, K, 4] y0, x0, y1, x1

    __device__ void set(long long image, long long column, int class_of, long long pixels, int begin) const {
        const long long at = image * columns + column;
        class_id[at] = class_of;
        area[at] = pixels;
        box[4 * at] = box[4 * at + 1] = begin;
        box[4 * at + 2] = box[4 * at + 3] = 0;
    }
    // Columns first, first + step, ... of an image are none.
    __device__ void pad(long long image, long long first, long long step) const {
        for (long long column = first; column < columns; column += step) set(image, column, -1, 0, 0);
    }
};

// Classes and areas, padding, and boxes that nothing is in yet.
template <class Index>
__device__ void fill_tables(const Division& division, const StripCounts* counts, const Index* component_parent,
                            const unsigned short* component_class, const Index* total, const unsigned* rank,
                            const unsigned* strip_roots, const int* count, const Tables& tables) {
    const Strip strip = strip_of_block(division);
    const Labels<Index> labels(strip, component_parent, rank, strip_roots);
    for (unsigned number = threadIdx.x; number < counts[blockIdx.x].components; number += blockDim.x) {
        const Index component = static_cast<Index>(strip.component_base() + number);
        if (labels.parent[component] != component) continue;
        const long long column = labels.of(component) - 1LL, slot = strip.slot + number;
        if (column < tables.columns)
            tables.set(strip.image, column, component_class[slot], static_cast<long long>(total[slot]), 0x7FFFFFFF);
    }
    tables.pad(strip.image, count[strip.image] + static_cast<long long>(strip.number) * blockDim.x + threadIdx.x,
               static_cast<long long>(division.strips()) * blockDim.x);
}

// Boxes, by the parts of runs in each word.
template <class Index>
__device__ void fill_boxes(const Division& division, const Word* image_words, const unsigned* run_component,
                           const Index* component_parent, const unsigned* rank, const unsigned* strip_roots,
                           long long columns, int* box) {
    const Strip strip = strip_of_block(division);
    const Labels<Index> labels(strip, component_parent, rank, strip_roots);
    const Word* const words = image_words + strip.first_word();
    Cursor at = words_of_thread(strip);
    for (unsigned first = 0; first < strip.words(); first += blockDim.x, at.advance()) {
        const bool present = at.number < strip.words();
        const Word word = present ? words[at.number] : Word{0, 0};
        const unsigned y = strip.first_row + at.row, x = 32 * at.column;
        const unsigned width = present ? strip.word_width(at.column) : 0;
        for (unsigned begin = 0; __any_sync(kAllLanes, begin < width);) {
            unsigned label = 0, end = begin;
            if (begin < width) {
                const unsigned later = begin < 31 ? word.edges >> (begin + 1) : 0;
                end = later ? begin + __ffs(later) : width;
                const unsigned component = run_component[strip.slot + word.run(begin)];
                if (is_component(component)) label = labels.of(static_cast<Index>(strip.component_base() + component));
            }
            const Peers<unsigned> peers(label);
            const int y0 = peers.smallest(y), y1 = peers.largest(y) + 1;
            const int x0 = peers.smallest(x + begin), x1 = peers.largest(x + end);
            if (peers.first() && label > 0 && label <= columns) {
                // An old value read here is one atomic too many, no more; a large component would have thousands wait.
                int* const corner = box + 4 * (strip.image * columns + label - 1);
                if (y0 < corner[0]) atomicMin(corner, y0);
                if (x0 < corner[1]) atomicMin(corner + 1, x0);
                if (y1 > corner[2]) atomicMax(corner + 2, y1);
                if (x1 > corner[3]) atomicMax(corner + 3, x1);
            }
            begin = end;
        }
    }
}

}  // namespace fastia

#define FASTIA_LABELS(name, Index)                                                                                     \
    extern "C" __global__ void fastia_fill_labels_##name(                                                              \
        long long height, long long width, long long rows, const fastia::StripCounts* counts,                          \
        const fastia::Word* words, const unsigned* run_component, const Index* component_parent, const unsigned* rank, \
        const unsigned* strip_roots, long long word_capacity, long long capacity, int* labels) {                       \
        fastia::fill_labels<Index>({height, width, rows}, counts, words, run_component, component_parent, rank,        \
                                   strip_roots, static_cast<unsigned>(word_capacity), static_cast<unsigned>(capacity), \
                                   labels);                                                                            \
    }                                                                                                                  \
    extern "C" __global__ void fastia_fill_tables_##name(                                                              \
        long long height, long long width, long long rows, const fastia::StripCounts* counts,                          \
        const Index* component_parent, const unsigned short* component_class, const Index* total,                      \
        const unsigned* rank, const unsigned* strip_roots, const int* count, long long columns, int* class_id,         \
        long long* area, int* bbox) {                                                                                  \
        fastia::fill_tables<Index>({height, width, rows}, counts, component_parent, component_class, total, rank,      \
                                   strip_roots, count, {columns, class_id, area, bbox});                               \
    }                                                                                                                  \
    extern "C" __global__ void fastia_fill_boxes_##name(long long height, long long width, long long rows,             \
                                                        const fastia::Word* words, const unsigned* run_component,      \
                                                        const Index* component_parent, const unsigned* rank,           \
                                                        const unsigned* strip_roots, long long columns, int* bbox) {   \
        fastia::fill_boxes<Index>({height, width, rows}, words, run_component, component_parent, rank, strip_roots,    \
                                  columns, bbox);                                                                      \
    }

FASTIA_LABELS(32, unsigned)
FASTIA_LABELS(64, unsigned long long)

// Tables of images without pixels, one block each.
extern "C" __global__ void fastia_empty_tables(int* count, long long columns, int* class_id, long long* area,
                                               int* bbox) {
    if (threadIdx.x == 0) count[blockIdx.x] = 0;
    fastia::Tables{columns, class_id, area, bbox}.pad(blockIdx.x, threadIdx.x, blockDim.x);
}
