// Kernel 1: the components of each strip, by a union-find over its runs in shared memory, or in global memory where
// a strip has more runs than shared memory has room for.
#include "runs.cuh"

namespace fastia {

// Ids of a batch of images, in place: strides in bytes.
template <class Id>
struct Masks {
    const char* data;
    long long image_stride, row_stride, column_stride;

    __device__ Id id(long long image, long long y, long long x) const {
        return *reinterpret_cast<const Id*>(data + image * image_stride + y * row_stride + x * column_stride);
    }
};

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

template <class Id>
__device__ void find_edges(const Masks<Id>& masks, const Strip& strip, long long width, Word* words) {
    for (unsigned word = threadIdx.x / 32; word < strip.words(); word += blockDim.x / 32) {
        const long long y = strip.first_row + word / strip.words_per_row;
        const long long x = 32LL * (word % strip.words_per_row) + threadIdx.x % 32;
        const bool edge = x < width && (x == 0 || masks.id(strip.image, y, x) != masks.id(strip.image, y, x - 1));
        const unsigned edges = __ballot_sync(kAllLanes, edge);
        if (threadIdx.x % 32 == 0) words[word].edges = edges;
    }
    __syncthreads();
}

// Fills in `runs_before` and returns the number of runs.
__device__ inline unsigned count_runs(const Strip& strip, Word* words, Span<unsigned> sums) {
    unsigned runs = 0;
    for (unsigned first = 0; first < strip.words(); first += blockDim.x) {
        const unsigned word = first + threadIdx.x;
        const unsigned own = word < strip.words() ? __popc(words[word].edges) : 0;
        unsigned all;
        const unsigned before = sum_before(own, sums, &all);
        if (word < strip.words()) words[word].runs_before = runs + before;
        runs += all;
    }
    __syncthreads();
    return runs;
}

// Adds the pixels and extends the boxes of the strip's components, word by word.
template <class Index>
__device__ void measure(const Strip& strip, const Division& division, const Word* words, Span<unsigned> component,
                        Span<unsigned> area, const Measures<Index>& measures) {
    for (unsigned first = 0; first < strip.words(); first += blockDim.x) {
        const unsigned number = first + threadIdx.x;
        const bool present = number < strip.words();
        const Word word = present ? words[number] : Word{0, 0};
        const unsigned x = number % strip.words_per_row * 32;
        const unsigned width = present ? static_cast<unsigned>(min(32LL, division.width - x)) : 0;
        for (unsigned begin = 0; __any_sync(kAllLanes, begin < width);) {
            unsigned key = kIgnored, end = begin;
            if (begin < width) {
                const unsigned later = begin < 31 ? word.edges >> (begin + 1) : 0;
                end = later ? begin + __ffs(later) : width;
                key = component[word.run(begin)];
            }
            const Peers<unsigned> peers(key);
            const unsigned pixels = peers.sum(end - begin);
            if (peers.first() && is_component(key)) atomicAdd(&area[key], pixels);
            if (measures.box) {
                const unsigned y = static_cast<unsigned>(strip.first_row) + number / strip.words_per_row;
                const unsigned y0 = peers.smallest(y), y1 = peers.largest(y) + 1;
                const unsigned x0 = peers.smallest(x + begin), x1 = peers.largest(x + end);
                if (peers.first() && is_component(key)) {
                    unsigned* box = measures.box + strip.slot + key;
                    atomicMin(box, y0);
                    atomicMin(box + measures.box_stride, x0);
                    atomicMax(box + 2 * measures.box_stride, y1);
                    atomicMax(box + 3 * measures.box_stride, x1);
                }
            }
            begin = end;
        }
    }
    __syncthreads();
}

template <class Id, class Index>
__device__ void label_strip(const Masks<Id>& masks, const Classes& classes, bool diagonal, const Division& division,
                            unsigned capacity, Word* image_words, StripCounts* counts, unsigned* run_component,
                            Index* component_parent, unsigned short* component_class, unsigned* arrivals,
                            const Measures<Index>& measures) {
    const Strip strip = strip_of_block(division);
    const unsigned words_per_row = strip.words_per_row;
    Word* const words = image_words + strip.first_word;
    const Span<unsigned> sums = shared_span<unsigned>(0, 32);

    find_edges(masks, strip, division.width, words);
    const unsigned runs = count_runs(strip, words, sums);

    // Without room in shared memory, parents lie where runs get their components, codes where components get parents.
    const bool fits = runs <= capacity;
    const unsigned pixels = strip.pixels(division);
    const Span<unsigned> parent =
        fits ? shared_span<unsigned>(kSumsBytes, capacity) : Span<unsigned>(run_component + strip.slot, pixels);
    const Span<unsigned> code =
        fits ? shared_span<unsigned>(kSumsBytes + capacity * sizeof(unsigned), capacity)
             : Span<unsigned>(reinterpret_cast<unsigned*>(component_parent + strip.slot), pixels);

    for (unsigned word = threadIdx.x; word < strip.words(); word += blockDim.x) {
        unsigned run = words[word].runs_before;
        for (unsigned starts = words[word].edges; starts; starts &= starts - 1, ++run) {
            const long long x = 32LL * (word % words_per_row) + __ffs(starts) - 1;
            parent[run] = run;
            code[run] =
                classes.of(static_cast<long long>(masks.id(strip.image, strip.first_row + word / words_per_row, x)));
        }
    }
    __syncthreads();

    for (unsigned word = words_per_row + threadIdx.x; word < strip.words(); word += blockDim.x) {
        for_each_contact(words[word - words_per_row], words[word], word % words_per_row == 0, diagonal,
                         [&](unsigned upper, unsigned lower) {
                             const unsigned own = code[lower];
                             if (is_component(own) && code[upper] == own) unite(parent, upper, lower);
                         });
    }
    __syncthreads();

    for (unsigned run = threadIdx.x; run < runs; run += blockDim.x) parent.store(run, find(parent, run));
    __syncthreads();

    unsigned components = 0;
    for (unsigned first = 0; first < runs; first += blockDim.x) {
        const unsigned run = first + threadIdx.x;
        const unsigned own = run < runs ? code[run] : kIgnored;
        const bool root = is_component(own) && parent[run] == run;
        unsigned all;
        const unsigned number = components + sum_before(root, sums, &all);
        if (root) {
            component_class[strip.slot + number] = static_cast<unsigned short>(own);
            parent[run] = kNumbered | number;
            if (measures.class_total)
                measures.class_total[strip.image * measures.classes + (measures.classes > 1 ? own : 0)] = 0;
        } else if (run < runs && !is_component(own)) {
            parent[run] = own;
        }
        components += all;
    }
    __syncthreads();

    // Whether a root's parent still is its number with the mark or already without: what is left of it is the number.
    for (unsigned run = threadIdx.x; run < runs; run += blockDim.x) {
        unsigned component = parent.load(run);
        if (is_component(component)) {
            if (!(component & kNumbered)) component = parent.load(component);
            component &= ~kNumbered;
        }
        parent.store(run, component);
        if (fits) run_component[strip.slot + run] = component;
    }
    if (measures.area) {
        for (unsigned component = threadIdx.x; component < components; component += blockDim.x) {
            code[component] = 0;
            if (measures.box) {
                unsigned* box = measures.box + strip.slot + component;
                box[0] = box[measures.box_stride] = 0xFFFFFFFFu;
                box[2 * measures.box_stride] = box[3 * measures.box_stride] = 0;
            }
        }
        __syncthreads();
        measure(strip, division, words, parent, code, measures);
        for (unsigned component = threadIdx.x; component < components; component += blockDim.x) {
            const unsigned area = code[component];
            measures.area[strip.slot + component] = area;
            measures.total[strip.slot + component] = area;
        }
    }
    __syncthreads();
    for (unsigned component = threadIdx.x; component < components; component += blockDim.x)
        component_parent[strip.slot + component] = static_cast<Index>(strip.component_base + component);
    if (threadIdx.x == 0) {
        counts[blockIdx.x] = {runs, components};
        if (arrivals && strip.number == 0) arrivals[strip.image] = 0;
    }
}

}  // namespace fastia

#define FASTIA_STRIPS(name, Id, Index)                                                                                 \
    extern "C" __global__ void fastia_strips_##name(                                                                   \
        long long height, long long width, long long rows, const char* data, long long image_stride,                   \
        long long row_stride, long long column_stride, long long background, long long has_ignored, long long ignored, \
        long long* error, long long diagonal, long long capacity, fastia::Word* words, fastia::StripCounts* counts,    \
        unsigned* run_component, Index* component_parent, unsigned short* component_class, unsigned* arrivals,         \
        unsigned* area, Index* total, Index* class_total, long long classes, unsigned* box, long long box_stride) {    \
        fastia::label_strip<Id, Index>(                                                                                \
            {data, image_stride, row_stride, column_stride}, {background, has_ignored != 0, ignored, error},           \
            diagonal != 0, {height, width, rows}, static_cast<unsigned>(capacity), words, counts, run_component,       \
            component_parent, component_class, arrivals, {area, total, class_total, classes, box, box_stride});        \
    }
#define FASTIA_STRIPS_OF(name, Id)         \
    FASTIA_STRIPS(name##_32, Id, unsigned) \
    FASTIA_STRIPS(name##_64, Id, unsigned long long)

FASTIA_STRIPS_OF(uint8, unsigned char)
FASTIA_STRIPS_OF(int16, short)
FASTIA_STRIPS_OF(uint16, unsigned short)
FASTIA_STRIPS_OF(int32, int)
FASTIA_STRIPS_OF(int64, long long)
