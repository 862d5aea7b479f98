// Kernel 4 of label and components, and the tables of components.
#include "core/fill.cuh"
#include "core/ranks.cuh"

namespace fastia {

template <class Index>
struct FillLabels {
    Labelling<Index> labelling;
    long long word_capacity, run_capacity;  // words and runs of a strip that shared memory has room for
    int* labels;                            // [images, height, width]
};

template <class Index>
__device__ void fill_labels(const FillLabels<Index>& parameters) {
    const Strip strip = strip_of_block(parameters.labelling.division);
    const Labels<Index> labels(strip, parameters.labelling);
    fill_strip(strip, parameters.labelling, static_cast<unsigned>(parameters.word_capacity),
               static_cast<unsigned>(parameters.run_capacity), parameters.labels, [&](unsigned component) {
                   return is_component(component) ? labels.of(static_cast<Index>(strip.component_base() + component))
                                                  : 0;
               });
}

// The components of each image, [images, columns], in label order.
struct Tables {
    long long columns;
    int* class_id;
    long long* area;
    int* bbox;  // [images, columns, 4] y0, x0, y1, x1

    __device__ void set(long long image, long long column, int class_of, long long pixels, int begin) const {
        const long long at = image * columns + column;
        class_id[at] = class_of;
        area[at] = pixels;
        bbox[4 * at] = bbox[4 * at + 1] = begin;
        bbox[4 * at + 2] = bbox[4 * at + 3] = 0;
    }
    // Columns first, first + step, ... of an image are none.
    __device__ void pad(long long image, long long first, long long step) const {
        for (long long column = first; column < columns; column += step) set(image, column, -1, 0, 0);
    }
};

template <class Index>
struct FillTables {
    Labelling<Index> labelling;
    const int* count;  // [images]
    Tables tables;
};

// Classes and areas, padding, and boxes that nothing is in yet.
template <class Index>
__device__ void fill_tables(const FillTables<Index>& parameters) {
    const Labelling<Index>& labelling = parameters.labelling;
    const Tables& tables = parameters.tables;
    const Strip strip = strip_of_block(labelling.division);
    const Labels<Index> labels(strip, labelling);
    for (unsigned number = threadIdx.x; number < labelling.counts[blockIdx.x].components; number += blockDim.x) {
        const Index component = static_cast<Index>(strip.component_base() + number);
        if (labels.parent[component] != component) continue;
        const long long column = labels.of(component) - 1LL, slot = strip.slot + number;
        if (column < tables.columns)
            tables.set(strip.image, column, labelling.component_class[slot],
                       static_cast<long long>(labelling.total[slot]), 0x7FFFFFFF);
    }
    tables.pad(strip.image,
               parameters.count[strip.image] + static_cast<long long>(strip.number) * blockDim.x + threadIdx.x,
               static_cast<long long>(labelling.division.strips()) * blockDim.x);
}

template <class Index>
struct FillBoxes {
    Labelling<Index> labelling;
    Tables tables;
};

// Boxes, by the parts of runs in each word.
template <class Index>
__device__ void fill_boxes(const FillBoxes<Index>& parameters) {
    const Labelling<Index>& labelling = parameters.labelling;
    const Strip strip = strip_of_block(labelling.division);
    const Labels<Index> labels(strip, labelling);
    const Word32* const words = labelling.words + strip.first_word();
    Cursor at = words_of_thread(strip);
    for (unsigned first = 0; first < strip.words(); first += blockDim.x, at.advance()) {
        const bool present = at.number < strip.words();
        const Word32 word = present ? words[at.number] : Word32{0, 0};
        const unsigned y = strip.first_row + at.row, x = 32 * at.column;
        const unsigned width = present ? strip.word_width(at.column) : 0;
        for (unsigned begin = 0; __any_sync(kAllLanes, begin < width);) {
            unsigned label = 0, end = begin;
            if (begin < width) {
                const unsigned later = begin < 31 ? word.edges >> (begin + 1) : 0;
                end = later ? begin + __ffs(later) : width;
                const unsigned component = labelling.run_component[strip.slot + word.run(begin)];
                if (is_component(component)) label = labels.of(static_cast<Index>(strip.component_base() + component));
            }
            const Peers<unsigned> peers(label);
            const int y0 = peers.smallest(y), y1 = peers.largest(y) + 1;
            const int x0 = peers.smallest(x + begin), x1 = peers.largest(x + end);
            if (peers.first() && label > 0 && label <= parameters.tables.columns) {
                // A stale read costs one needless atomic; the result is the same. Without it, the many runs of a large
                // component would wait for each other.
                int* const corner = parameters.tables.bbox + 4 * (strip.image * parameters.tables.columns + label - 1);
                if (y0 < corner[0]) atomicMin(corner, y0);
                if (x0 < corner[1]) atomicMin(corner + 1, x0);
                if (y1 > corner[2]) atomicMax(corner + 2, y1);
                if (x1 > corner[3]) atomicMax(corner + 3, x1);
            }
            begin = end;
        }
    }
}

// Tables of images without pixels, one block each.
struct EmptyTables {
    int* count;  // [images]
    Tables tables;
};

__device__ inline void empty_tables(const EmptyTables& parameters) {
    if (threadIdx.x == 0) parameters.count[blockIdx.x] = 0;
    parameters.tables.pad(blockIdx.x, threadIdx.x, blockDim.x);
}

}  // namespace fastia

extern "C" __global__ void fastia_fill_labels_32(fastia::FillLabels<unsigned> parameters) {
    fastia::fill_labels(parameters);
}
extern "C" __global__ void fastia_fill_labels_64(fastia::FillLabels<unsigned long long> parameters) {
    fastia::fill_labels(parameters);
}
extern "C" __global__ void fastia_fill_tables_32(fastia::FillTables<unsigned> parameters) {
    fastia::fill_tables(parameters);
}
extern "C" __global__ void fastia_fill_tables_64(fastia::FillTables<unsigned long long> parameters) {
    fastia::fill_tables(parameters);
}
extern "C" __global__ void fastia_fill_boxes_32(fastia::FillBoxes<unsigned> parameters) {
    fastia::fill_boxes(parameters);
}
extern "C" __global__ void fastia_fill_boxes_64(fastia::FillBoxes<unsigned long long> parameters) {
    fastia::fill_boxes(parameters);
}
extern "C" __global__ void fastia_empty_tables(fastia::EmptyTables parameters) { fastia::empty_tables(parameters); }
