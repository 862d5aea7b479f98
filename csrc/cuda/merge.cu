// Kernel 2: unites the components of adjacent strips along their borders, in global memory.
#include "runs.cuh"

namespace fastia {

template <class Index>
__device__ void merge_strips(bool diagonal, const Division& division, const Word* words, const unsigned* run_component,
                             Index* component_parent, const unsigned short* component_class) {
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
    const Word* const word = words + below.first_word() + column;
    const Word lower = word[0], upper = *(word - words_per_row);
    if (!((upper.edges | lower.edges) >> x & 1)) return;

    const Strip above(division, image, border);
    const Span<Index> parent(component_parent + image * division.pixels(), division.pixels());
    visit_contacts(upper, lower, x, column == 0, diagonal, [&](unsigned upper_run, unsigned lower_run) {
        const unsigned a = run_component[above.slot + upper_run], b = run_component[below.slot + lower_run];
        if (!is_component(a) || !is_component(b)) return false;
        if (component_class[above.slot + a] != component_class[below.slot + b]) return false;
        unite(parent, static_cast<Index>(above.component_base() + a), static_cast<Index>(below.component_base() + b));
        return true;
    });
}

}  // namespace fastia

#define FASTIA_MERGE(name, Index)                                                                                 \
    extern "C" __global__ void fastia_merge_##name(                                                               \
        long long height, long long width, long long rows, long long diagonal, const fastia::Word* words,         \
        const unsigned* run_component, Index* component_parent, const unsigned short* component_class) {          \
        fastia::merge_strips<Index>(diagonal != 0, {height, width, rows}, words, run_component, component_parent, \
                                    component_class);                                                             \
    }

FASTIA_MERGE(32, unsigned)
FASTIA_MERGE(64, unsigned long long)
