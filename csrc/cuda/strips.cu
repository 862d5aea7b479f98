// Kernel 1: the components of each strip, by a union-find over its runs in shared memory, or in global memory where
// a strip has more runs than shared memory has room for.
#include "edges.cuh"

namespace fastia {

// Which ids form components.
struct Classes {
    long long background;  // -1: none
    bool has_ignored;
    long long ignored;
    long long* error;  // nullptr, or [2]: 1 and an id that is not allowed

    // The class, kBackground or kIgnored.
    __device__ unsigned of(long long id) const {
        if (has_ignored && id == ignored) return kIgnored;
        if (id < 0 || id > kLargestClass) {
            if (error) {
                error[0] = 1;
                error[1] = id;
            }
            return kIgnored;
        }
        return id == background ? kBackground : static_cast<unsigned>(id);
    }
};

// What a component needs besides its labels; nullptr where the operation does not.
template <class Index>
struct Measures {
    unsigned* area;        // [images, pixels] of the strip's components
    Index* total;          // [images, pixels] of the image's components, at their roots
    Index* class_total;    // [images, classes]
    long long classes;     // 1: all classes together
    unsigned* box;         // [4, images, pixels] y0, x0, y1, x1
    long long box_stride;  // images * pixels
};

// Marks the parent of a root as the root's number among the components of the strip.
constexpr unsigned kNumbered = 0x80000000u;

// Fills in the words of a strip and returns its number of runs.
template <class Id>
__device__ unsigned find_runs(const Masks<Id>& masks, const Strip& strip, long long width, Word* words,
                              Span<unsigned> sums) {
    unsigned runs = 0;
    WordCursor word(strip, threadIdx.x, blockDim.x);
    for (unsigned first = 0; first < strip.words(); first += blockDim.x, word.advance()) {
        const unsigned edges = find_edges(masks, strip, width, word);
        unsigned all;
        const unsigned before = sum_before(__popc(edges), sums, &all);
        if (word.number < strip.words()) words[word.number] = {edges, runs + before};
        runs += all;
    }
    __syncthreads();
    return runs;
}

// Extends the boxes of the strip's components, word by word.
template <class Index>
__device__ void extend_boxes(const Strip& strip, const Division& division, const Word* words, Span<unsigned> component,
                             const Measures<Index>& measures) {
    WordCursor at(strip, threadIdx.x, blockDim.x);
    for (unsigned first = 0; first < strip.words(); first += blockDim.x, at.advance()) {
        const bool present = at.number < strip.words();
        const Word word = present ? words[at.number] : Word{0, 0};
        const unsigned x = at.column * 32;
        const unsigned y = static_cast<unsigned>(strip.first_row) + at.row;
        const unsigned width = present ? static_cast<unsigned>(min(32LL, division.width - x)) : 0;
        for (unsigned begin = 0; __any_sync(kAllLanes, begin < width);) {
            unsigned key = kIgnored, end = begin;
            if (begin < width) {
                const unsigned later = begin < 31 ? word.edges >> (begin + 1) : 0;
                end = later ? begin + __ffs(later) : width;
                key = component[word.run(begin)];
            }
            const Peers<unsigned> peers(key);
            const unsigned y0 = peers.smallest(y), y1 = peers.largest(y) + 1;
            const unsigned x0 = peers.smallest(x + begin), x1 = peers.largest(x + end);
            if (peers.first() && is_component(key)) {
                unsigned* const box = measures.box + strip.slot + key;
                atomicMin(box, y0);
                atomicMin(box + measures.box_stride, x0);
                atomicMax(box + 2 * measures.box_stride, y1);
                atomicMax(box + 3 * measures.box_stride, x1);
            }
            begin = end;
        }
    }
}

template <class Id, class Index>
__device__ void label_strip(const Masks<Id>& masks, const Classes& classes, bool diagonal, const Division& division,
                            unsigned capacity, Word* image_words, StripCounts* counts, unsigned* run_component,
                            Index* component_parent, unsigned short* component_class, unsigned* arrivals,
                            const Measures<Index>& measures) {
    const Strip strip = strip_of_block(division);
    Word* const words = image_words + strip.first_word;
    const Span<unsigned> sums = shared_span<unsigned>(0, 32);
    const unsigned runs = find_runs(masks, strip, division.width, words, sums);

    // For each run its parent, its class, and its pixels, to which those of the others will be added at a root.
    // Without room in shared memory they lie where the results for runs and components will.
    const bool fits = runs <= capacity;
    const auto room = [&](unsigned part, void* otherwise) {
        return fits ? shared_span<unsigned>(kSumsBytes + part * capacity * sizeof(unsigned), capacity)
                    : Span<unsigned>(static_cast<unsigned*>(otherwise), strip.pixels(division));
    };
    const Span<unsigned> parent = room(0, run_component + strip.slot);
    const Span<unsigned> class_of = room(1, component_parent + strip.slot);
    const Span<unsigned> area = room(2, measures.area + (measures.area ? strip.slot : 0));

    const WordCursor first_word(strip, threadIdx.x, blockDim.x);
    for (WordCursor at = first_word; at.number < strip.words(); at.advance()) {
        const long long y = strip.first_row + at.row, x = 32LL * at.column;
        const Word word = words[at.number];
        unsigned run = word.runs_before;
        for (unsigned starts = word.edges; starts; ++run) {
            const unsigned begin = __ffs(starts) - 1;
            starts &= starts - 1;
            const unsigned end = starts ? __ffs(starts) - 1 : static_cast<unsigned>(min(32LL, division.width - x));
            parent[run] = run;
            class_of[run] = classes.of(static_cast<long long>(masks.id(strip.image, y, x + begin)));
            if (measures.area) area[run] = end - begin;
        }
    }
    __syncthreads();

    for (WordCursor at = first_word; at.number < strip.words(); at.advance()) {
        const Word lower = words[at.number];
        if (measures.area && !(lower.edges & 1)) {  // the run before goes on
            const unsigned width = static_cast<unsigned>(min(32LL, division.width - 32LL * at.column));
            atomicAdd(&area[lower.runs_before - 1], lower.edges ? __ffs(lower.edges) - 1 : width);
        }
        if (at.row == 0) continue;
        const Word upper = words[at.number - strip.words_per_row];
        for (unsigned starts = upper.edges | lower.edges; starts; starts &= starts - 1) {
            visit_contacts(upper, lower, __ffs(starts) - 1, at.column == 0, diagonal,
                           [&](unsigned above, unsigned below) {
                               const unsigned own = class_of[below];
                               if (is_component(own) && class_of[above] == own) unite(parent, above, below);
                           });
        }
    }
    __syncthreads();

    for (unsigned first = 0; first < runs; first += blockDim.x) {
        const unsigned run = first + threadIdx.x;
        unsigned root = ~0u;
        if (run < runs) {
            root = find(parent, run);
            parent.store(run, root);
        }
        if (measures.area) {
            // Many runs of a large component would have as many atomics wait for each other.
            const Peers<unsigned> peers(root);
            const unsigned pixels = peers.sum(run < runs && root != run ? area[run] : 0);
            if (peers.first() && pixels) atomicAdd(&area[root], pixels);
        }
    }
    __syncthreads();

    unsigned components = 0;
    for (unsigned first = 0; first < runs; first += blockDim.x) {
        const unsigned run = first + threadIdx.x;
        const unsigned own = run < runs ? class_of[run] : kIgnored;
        const bool root = is_component(own) && parent[run] == run;
        const unsigned pixels = root && measures.area ? area[run] : 0;
        unsigned all;
        const unsigned number = components + sum_before(root, sums, &all);
        if (root) {
            const long long slot = strip.slot + number;
            component_class[slot] = static_cast<unsigned short>(own);
            parent[run] = kNumbered | number;
            if (measures.area) {
                measures.area[slot] = pixels;  // no root that comes later lies there
                measures.total[slot] = pixels;
            }
            if (measures.class_total)
                measures.class_total[strip.image * measures.classes + (measures.classes > 1 ? own : 0)] = 0;
            if (measures.box) {
                unsigned* const box = measures.box + slot;
                box[0] = box[measures.box_stride] = ~0u;
                box[2 * measures.box_stride] = box[3 * measures.box_stride] = 0;
            }
        } else if (run < runs && !is_component(own)) {
            parent[run] = own;
        }
        components += all;
    }
    __syncthreads();

    // Whether the parent of a root still is its number with the mark, or already without: what is left is the number.
    for (unsigned run = threadIdx.x; run < runs; run += blockDim.x) {
        unsigned component = parent.load(run);
        if (is_component(component)) {
            if (!(component & kNumbered)) component = parent.load(component);
            component &= ~kNumbered;
        }
        parent.store(run, component);
        if (fits) run_component[strip.slot + run] = component;
    }
    for (unsigned component = threadIdx.x; component < components; component += blockDim.x)
        component_parent[strip.slot + component] = static_cast<Index>(strip.component_base + component);
    if (threadIdx.x == 0) {
        counts[blockIdx.x] = {runs, components};
        if (arrivals && strip.number == 0) arrivals[strip.image] = 0;
    }
    if (measures.box) {
        __syncthreads();
        extend_boxes(strip, division, words, parent, measures);
    }
}

}  // namespace fastia

#define FASTIA_STRIPS(name, Id, Index)                                                                              \
    extern "C" __global__ void fastia_strips_##name(                                                                \
        long long height, long long width, long long rows, const char* data, long long image_stride,                \
        long long row_stride, long long column_stride, const char* data_begin, const char* data_end,                \
        long long background, long long has_ignored, long long ignored, long long* error, long long diagonal,       \
        long long capacity, fastia::Word* words, fastia::StripCounts* counts, unsigned* run_component,              \
        Index* component_parent, unsigned short* component_class, unsigned* arrivals, unsigned* area, Index* total, \
        Index* class_total, long long classes, unsigned* box, long long box_stride) {                               \
        fastia::label_strip<Id, Index>({data, image_stride, row_stride, column_stride, data_begin, data_end},       \
                                       {background, has_ignored != 0, ignored, error}, diagonal != 0,               \
                                       {height, width, rows}, static_cast<unsigned>(capacity), words, counts,       \
                                       run_component, component_parent, component_class, arrivals,                  \
                                       {area, total, class_total, classes, box, box_stride});                       \
    }
#define FASTIA_STRIPS_OF(name, Id)         \
    FASTIA_STRIPS(name##_32, Id, unsigned) \
    FASTIA_STRIPS(name##_64, Id, unsigned long long)

FASTIA_STRIPS_OF(uint8, unsigned char)
FASTIA_STRIPS_OF(int16, short)
FASTIA_STRIPS_OF(uint16, unsigned short)
FASTIA_STRIPS_OF(int32, int)
FASTIA_STRIPS_OF(int64, long long)
