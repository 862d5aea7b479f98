// Kernel 2: unites the components of adjacent strips along their borders, in global memory.
#include "core/runs.cuh"

namespace fastia {

template <class Index>
struct Merge {
    Labelling<Index> labelling;
    long long connectivity;  // 4 or 8
};

template <class Index>
__device__ void merge(const Merge<Index>& parameters) {
    const Labelling<Index>& labelling = parameters.labelling;
    const Division division = labelling.division;
    const unsigned words_per_row = division.words_per_row();
    // A thread for each pixel, not for each word: what takes time here is to wait for parents, one after the other.
    const unsigned words_per_block = blockDim.x / 32;
    const unsigned border_words = (division.strips() - 1) * words_per_row;
    const unsigned blocks_per_image = (border_words + words_per_block - 1) / words_per_block;
    const unsigned image = blockIdx.x / blocks_per_image;
    const unsigned word_number = blockIdx.x % blocks_per_image * words_per_block + threadIdx.x / 32;
    if (word_number >= border_words) return;
    const unsigned border = word_number / words_per_row, column = word_number % words_per_row;
    const unsigned x = threadIdx.x % 32;

    const Strip below(division, image, border + 1);
    const Word32* const word = labelling.words + below.first_word() + column;
    const Word32 lower = word[0], upper = *(word - words_per_row);
    if (!((upper.edges | lower.edges) >> x & 1)) return;

    const Strip above(division, image, border);
    const Span<Index> parent(labelling.component_parent + image * division.pixels(), division.pixels());
    const unsigned* const upper_component = labelling.run_component + above.slot;
    const unsigned* const lower_component = labelling.run_component + below.slot;
    visit_contacts(upper, lower, x, column == 0, parameters.connectivity == 8,
                   [&](unsigned upper_run, unsigned lower_run) {
                       const unsigned a = upper_component[upper_run];
                       const unsigned b = lower_component[lower_run];
                       if (!is_component(a) || !is_component(b)) return false;
                       if (labelling.component_class[above.slot + a] != labelling.component_class[below.slot + b])
                           return false;
                       unite(parent, static_cast<Index>(above.component_base() + a),
                             static_cast<Index>(below.component_base() + b));
                       return true;
                   });
}

}  // namespace fastia

extern "C" __global__ void fastia_merge_32(fastia::Merge<unsigned> parameters) { fastia::merge(parameters); }
extern "C" __global__ void fastia_merge_64(fastia::Merge<unsigned long long> parameters) { fastia::merge(parameters); }
