// The components of a strip, by a union-find over its runs in shared memory, or in global memory where a strip has more
// runs than shared memory has room for.
//
// A `Source` says where runs start and which class they are of:
//     unsigned edges(const Strip&, const Cursor&)         bits of the word of each lane, for all lanes at once
//     unsigned class_of(image, y, x) const                a class, kBackgroundClass or kIgnoredClass
#pragma once
#include "core/edges.cuh"

namespace fastia {

// Blocks of 256 threads that registers must suffice for; a multiprocessor of sm_75 has no more than 4.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr int kBlocks = 4;
#else
constexpr int kBlocks = 5;
#endif

// Marks the parent of a root as the root's number among the components of the strip.
constexpr unsigned kNumbered = 0x80000000u;

// Fills in the words of a strip and returns its number of runs.
template <class Source>
__device__ unsigned find_runs(Source& source, const Strip& strip, Word32* words, Span<unsigned> sums) {
    unsigned runs = 0;
    Cursor word = words_of_thread(strip);
    for (unsigned first = 0; first < strip.words(); first += blockDim.x, word.advance()) {
        const unsigned edges = source.edges(strip, word);
        unsigned all;
        const unsigned before = sum_before(__popc(edges), sums, &all);
        if (word.number < strip.words()) words[word.number] = {edges, runs + before};
        runs += all;
    }
    __syncthreads();
    return runs;
}

// For each run of a strip its parent, its class, and its pixels, to which those of others will be added at a root.
struct Runs {
    unsigned count;
    Span<unsigned> parent, class_of, area;
};

// Every run on its own, with its pixels in the word where it starts.
template <class Source>
__device__ __forceinline__ void start_runs(const Runs& runs, const Source& source, const Strip& strip,
                                           const Word32* words, bool measured) {
    for (Cursor at = words_of_thread(strip); at.number < strip.words(); at.advance()) {
        const long long y = strip.first_row + at.row, x = 32LL * at.column;
        const Word32 word = words[at.number];
        unsigned run = word.runs_before;
        for (unsigned starts = word.edges; starts; ++run) {
            const unsigned begin = __ffs(starts) - 1;
            starts &= starts - 1;
            const unsigned end = starts ? __ffs(starts) - 1 : strip.word_width(at.column);
            runs.parent[run] = run;
            runs.class_of[run] = source.class_of(strip.image, y, x + begin);
            if (measured) runs.area[run] = end - begin;
        }
    }
    __syncthreads();
}

// Unites runs of one class that touch, and adds the pixels of runs in words where they only go on.
__device__ __forceinline__ void unite_runs(const Runs& runs, const Strip& strip, bool diagonal, const Word32* words,
                                           bool measured) {
    for (Cursor at = words_of_thread(strip); at.number < strip.words(); at.advance()) {
        const Word32 lower = words[at.number];
        if (measured && !(lower.edges & 1)) {
            const unsigned end = lower.edges ? __ffs(lower.edges) - 1 : strip.word_width(at.column);
            atomicAdd(&runs.area[lower.runs_before - 1], end);
        }
        if (at.row == 0) continue;
        const Word32 upper = words[at.number - strip.words_per_row];
        for (unsigned starts = upper.edges | lower.edges; starts; starts &= starts - 1) {
            visit_contacts(upper, lower, __ffs(starts) - 1, at.column == 0, diagonal,
                           [&](unsigned above, unsigned below) {
                               const unsigned own = runs.class_of[below];
                               if (!is_component(own) || runs.class_of[above] != own) return false;
                               unite(runs.parent, above, below);
                               return true;
                           });
        }
    }
    __syncthreads();
}

// Makes every parent a root, and adds up pixels there.
__device__ __forceinline__ void find_roots(const Runs& runs, bool measured) {
    for (unsigned first = 0; first < runs.count; first += blockDim.x) {
        const unsigned run = first + threadIdx.x;
        unsigned root = ~0u;
        if (run < runs.count) {
            root = find(runs.parent, run);
            runs.parent.store(run, root);
        }
        if (measured) {
            // Many runs of a large component would have as many atomics wait for each other.
            const Peers<unsigned> peers(root);
            const unsigned pixels = peers.sum(run < runs.count && root != run ? runs.area[run] : 0);
            if (peers.first() && pixels) atomicAdd(&runs.area[root], pixels);
        }
    }
    __syncthreads();
}

// Numbers the components of a strip in the order of their roots, puts down what is known of them, and gives every run
// the number of its component. Returns how many there are.
// A Labelling goes by value here and below: that takes fewer registers than a reference.
template <class Index>
__device__ __forceinline__ unsigned number_components(const Runs& runs, const Strip& strip, Span<unsigned> sums,
                                                      Labelling<Index> labelling) {
    unsigned components = 0;
    for (unsigned first = 0; first < runs.count; first += blockDim.x) {
        const unsigned run = first + threadIdx.x;
        const unsigned own = run < runs.count ? runs.class_of[run] : kIgnoredClass;
        const bool root = is_component(own) && runs.parent[run] == run;
        const unsigned pixels = root && labelling.area ? runs.area[run] : 0;
        unsigned all;
        const unsigned number = components + sum_before(root, sums, &all);
        if (root) {
            const long long slot = strip.slot + number;
            labelling.component_class[slot] = static_cast<unsigned short>(own);
            if (labelling.first_run) labelling.first_run[slot] = run;
            runs.parent[run] = kNumbered | number;
            if (labelling.area) {
                labelling.area[slot] = pixels;  // overwrites no area that is still to be read: number <= run
                labelling.total[slot] = pixels;
            }
            if (labelling.class_total)
                labelling.class_total[strip.image * labelling.classes + (labelling.classes > 1 ? own : 0)] = 0;
        } else if (run < runs.count && !is_component(own)) {
            runs.parent[run] = own;
        }
        components += all;
    }
    __syncthreads();

    // A root's parent is `kNumbered | number` until its own thread stores the number: without the mark, both are that.
    for (unsigned run = threadIdx.x; run < runs.count; run += blockDim.x) {
        unsigned component = runs.parent.load(run);
        if (is_component(component)) {
            if (!(component & kNumbered)) component = runs.parent.load(component);
            component &= ~kNumbered;
        }
        runs.parent.store(run, component);
        labelling.run_component[strip.slot + run] = component;
    }
    return components;
}

// Compiled twice, so that the compiler knows shared memory from global memory.
template <class Source, class Index>
__device__ __forceinline__ void label_runs(const Runs& runs, const Source& source, bool diagonal, const Strip& strip,
                                           Span<unsigned> sums, Labelling<Index> labelling) {
    const Word32* const words = labelling.words + strip.first_word();
    start_runs(runs, source, strip, words, labelling.area);
    unite_runs(runs, strip, diagonal, words, labelling.area);
    find_roots(runs, labelling.area);
    const unsigned components = number_components(runs, strip, sums, labelling);
    for (unsigned component = threadIdx.x; component < components; component += blockDim.x)
        labelling.component_parent[strip.slot + component] = static_cast<Index>(strip.component_base() + component);
    if (threadIdx.x == 0) {
        labelling.counts[blockIdx.x] = {runs.count, components};
        if (labelling.arrivals && strip.number == 0) labelling.arrivals[strip.image] = 0;
    }
}

template <class Source, class Index>
__device__ void label_strip(Source& source, bool diagonal, unsigned run_capacity, Labelling<Index> labelling) {
    const Strip strip = strip_of_block(labelling.division);
    const Span<unsigned> sums = shared_span<unsigned>(0, 32);
    const unsigned runs = find_runs(source, strip, labelling.words + strip.first_word(), sums);
    if (runs <= run_capacity) {
        const auto room = [=](unsigned part) {
            return shared_span<unsigned>(kSumsBytes + part * run_capacity * sizeof(unsigned), run_capacity);
        };
        label_runs({runs, room(0), room(1), room(2)}, source, diagonal, strip, sums, labelling);
    } else {
        // No room: the runs borrow the arrays of this strip's results, which are written only after what was borrowed
        // has been read.
        const auto room = [&](void* slots) { return Span<unsigned>(static_cast<unsigned*>(slots), strip.pixels()); };
        label_runs({runs, room(labelling.run_component + strip.slot), room(labelling.component_parent + strip.slot),
                    room(labelling.area ? labelling.area + strip.slot : nullptr)},
                   source, diagonal, strip, sums, labelling);
    }
}

}  // namespace fastia
