// Kernel 3: gives every component of a strip its root in the image, and the roots what belongs to them: pixels,
// class totals, their rank among the roots in raster order.
#include "ranks.cuh"

namespace fastia {

constexpr unsigned kBins = 256;  // classes whose pixels are added up in shared memory first

template <class Index>
__device__ void flatten(const Division& division, const StripCounts* counts, Index* component_parent,
                        const unsigned short* component_class, const unsigned* area, Index* total, Index* class_total,
                        long long classes, unsigned* rank, unsigned* strip_roots, unsigned* arrivals, int* count) {
    const Strip strip = strip_of_block(division);
    const unsigned components = counts[blockIdx.x].components;
    const Span<unsigned> sums = shared_span<unsigned>(0, 32);
    const Span<unsigned> bins = shared_span<unsigned>(kSumsBytes, kBins);
    const Span<Index> parent(component_parent + strip.image_slot(), division.pixels());
    const long long image_slot = strip.image_slot();
    Index* const image_class_total = class_total ? class_total + strip.image * classes : nullptr;
    if (class_total) {
        for (unsigned bin = threadIdx.x; bin < kBins; bin += blockDim.x) bins[bin] = 0;
        __syncthreads();
    }

    unsigned roots = 0;
    for (unsigned first = 0; first < components; first += blockDim.x) {
        const unsigned component = first + threadIdx.x;
        const bool present = component < components;
        const long long slot = strip.slot + component;
        const Index own = static_cast<Index>(strip.component_base() + component);
        Index root = ~Index{0};
        if (present) {
            root = find(parent, own);
            parent.store(own, root);
        }
        if (area) {
            const unsigned pixels = present ? area[slot] : 0;
            if (present && class_total) {
                const unsigned class_id = classes > 1 ? component_class[slot] : 0;
                if (class_id < kBins)
                    atomicAdd(&bins[class_id], pixels);
                else
                    atomicAdd(&image_class_total[class_id], static_cast<Index>(pixels));
            }
            // A large component has many parts in a strip, and would have as many atomics wait for each other.
            const Peers<Index> peers(root);
            const unsigned sum = peers.sum(present && root != own ? pixels : 0);
            if (peers.first() && sum) atomicAdd(&total[image_slot + root], static_cast<Index>(sum));
        }
        if (rank) {
            const bool is_root = present && root == own;
            unsigned all;
            const unsigned before = sum_before(is_root, sums, &all);
            if (is_root) rank[slot] = roots + before;
            roots += all;
        }
    }

    if (class_total) {
        __syncthreads();
        for (unsigned bin = threadIdx.x; bin < kBins; bin += blockDim.x) {
            const unsigned pixels = bins[bin];
            if (pixels) atomicAdd(&image_class_total[bin], static_cast<Index>(pixels));
        }
    }
    if (rank) {
        rank_strips(strip, roots, strip_roots, arrivals, sums, [&](unsigned all) {
            if (count && threadIdx.x == 0) count[strip.image] = static_cast<int>(all);
        });
    }
}

}  // namespace fastia

#define FASTIA_FLATTEN(name, Index)                                                                                    \
    extern "C" __global__ void fastia_flatten_##name(                                                                  \
        long long height, long long width, long long rows, const fastia::StripCounts* counts, Index* component_parent, \
        const unsigned short* component_class, const unsigned* area, Index* total, Index* class_total,                 \
        long long classes, unsigned* rank, unsigned* strip_roots, unsigned* arrivals, int* count) {                    \
        fastia::flatten<Index>({height, width, rows}, counts, component_parent, component_class, area, total,          \
                               class_total, classes, rank, strip_roots, arrivals, count);                              \
    }

FASTIA_FLATTEN(32, unsigned)
FASTIA_FLATTEN(64, unsigned long long)
