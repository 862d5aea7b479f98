// The rank of components in the raster order of an image: first in their strip, then over strips.
#pragma once
#include "core/runs.cuh"

namespace fastia {

// Turns the number of roots of each strip into the number of roots before it, once all strips have been counted.
// Returns the number of all.
__device__ inline unsigned sum_strips(Span<unsigned> strip_roots, unsigned strips, Span<unsigned> sums) {
    unsigned roots = 0;
    for (unsigned first = 0; first < strips; first += blockDim.x) {
        const unsigned strip = first + threadIdx.x;
        const unsigned own = strip < strips ? strip_roots.load(strip) : 0;
        unsigned all;
        const unsigned before = sum_before(own, sums, &all);
        if (strip < strips) strip_roots[strip] = roots + before;
        roots += all;
    }
    return roots;
}

// Leaves in strip_roots, [images, strips], how many of what each strip counted come before it: the last block of an
// image to come here finds the counts of all. That one calls finish(number of all).
template <class Finish>
__device__ void rank_strips(const Strip& strip, unsigned roots, unsigned* strip_roots, unsigned* arrivals,
                            Span<unsigned> sums, Finish finish) {
    const unsigned strips = strip.division.strips();
    unsigned* const image_roots = strip_roots + static_cast<unsigned long long>(strip.image) * strips;
    if (threadIdx.x == 0) {
        image_roots[strip.number] = roots;
        __threadfence();
        sums[0] = atomicAdd(&arrivals[strip.image], 1u);
        __threadfence();  // by the thread that counted: the barrier passes on to others what this one may see
    }
    __syncthreads();
    const bool last = sums[0] == strips - 1;
    __syncthreads();
    if (!last) return;
    finish(sum_strips(Span<unsigned>(image_roots, strips), strips, sums));
}

// A component's label: the roots of the strips before that of its root, and of that strip up to it.
template <class Index>
struct Labels {
    const Index* parent;          // [pixels] of the image, roots since flatten
    const unsigned* rank;         // [pixels] of roots, in their strips
    const unsigned* strip_roots;  // [strips] roots before each
    Index strip_pixels;

    __device__ Labels(const Strip& strip, const Labelling<Index>& labelling)
        : parent(labelling.component_parent + strip.image_slot()),
          rank(labelling.rank + strip.image_slot()),
          strip_roots(labelling.strip_roots + strip.image * strip.division.strips()),
          strip_pixels(static_cast<Index>(strip.division.strip_pixels())) {}
    __device__ int of(Index component) const {
        const Index root = parent[component];
        return static_cast<int>(strip_roots[root / strip_pixels] + rank[root] + 1);
    }
};

}  // namespace fastia
