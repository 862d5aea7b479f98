// Kernel 2: unites the components of adjacent strips along their borders, in global memory.
#include "runs.cuh"

namespace fastia {

template <class Index>
__device__ void merge_strips(bool diagonal, const Division& division, const Word* words, const unsigned* run_component,
                             Index* component_parent, const unsigned short* component_class) {
    const unsigned words_per_row = division.words_per_row();
    const long long border_pixels = static_cast<long long>(division.strips() - 1) * words_per_row * 32;
    const long long blocks_per_image = (border_pixels + blockDim.x - 1) / blockDim.x;
    const long long image = blockIdx.x / blocks_per_image;
    const long long pixel = blockIdx.x % blocks_per_image * blockDim.x + threadIdx.x;
    if (pixel >= border_pixels) return;

    // A thread for each pixel, not for each word: what takes time here is to wait for parents, one after the other.
    const unsigned x = threadIdx.x % 32;
    const long long border = pixel / 32 / words_per_row, column = pixel / 32 % words_per_row;
    const Strip below(division, image, border + 1);
    const Word* const word = words + below.first_word() + column;
    const Word lower = word[0], upper = word[-static_cast<long long>(words_per_row)];
    if (!((upper.edges | lower.edges) >> x & 1)) return;

    const Strip above(division, image, border);
    const Span<Index> parent(component_parent + image * division.pixels(), division.pixels());
    visit_contacts(upper, lower, x, column == 0, diagonal, [&](unsigned upper_run, unsigned lower_run) {
        const unsigned a = run_component[above.slot + upper_run], b = run_component[below.slot + lower_run];
        if (!is_component(a) || !is_component(b)) return;
        if (component_class[above.slot + a] != component_class[below.slot + b]) return;
        unite(parent, static_cast<Index>(above.component_base() + a), static_cast<Index>(below.component_base() + b));
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
