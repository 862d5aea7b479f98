// Kernel 3: gives every component of a strip its root in the image, and the roots what belongs to them: pixels,
// class totals, their rank among the roots in raster order.
#include "core/ranks.cuh"

namespace fastia {

constexpr unsigned kBins = 256;  // classes whose pixels are added up in shared memory first

template <class Index>
struct Flatten {
    Labelling<Index> labelling;
    int* count;  // [images] components, or nullptr
};

template <class Index>
__device__ void flatten(const Flatten<Index>& parameters) {
    const Labelling<Index>& labelling = parameters.labelling;
    const unsigned* const area = labelling.area;
    Index* const class_total = labelling.class_total;
    const Strip strip = strip_of_block(labelling.division);
    const unsigned components = labelling.counts[blockIdx.x].components;
    const Span<unsigned> sums = shared_span<unsigned>(0, 32);
    const Span<unsigned> bins = shared_span<unsigned>(kSumsBytes, kBins);
    const Span<Index> parent(labelling.component_parent + strip.image_slot(), labelling.division.pixels());
    const long long image_slot = strip.image_slot();
    Index* const image_class_total = class_total ? class_total + strip.image * labelling.classes : nullptr;
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
                const unsigned class_id = labelling.classes > 1 ? labelling.component_class[slot] : 0;
                if (class_id < kBins)
                    atomicAdd(&bins[class_id], pixels);
                else
                    atomicAdd(&image_class_total[class_id], static_cast<Index>(pixels));
            }
            // A large component has many parts in a strip, and would have as many atomics wait for each other.
            const Peers<Index> peers(root);
            const unsigned sum = peers.sum(present && root != own ? pixels : 0);
            if (peers.first() && sum) atomicAdd(&labelling.total[image_slot + root], static_cast<Index>(sum));
        }
        if (labelling.rank) {
            const bool is_root = present && root == own;
            unsigned all;
            const unsigned before = sum_before(is_root, sums, &all);
            if (is_root) labelling.rank[slot] = roots + before;
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
    if (labelling.rank) {
        rank_strips(strip, roots, labelling.strip_roots, labelling.arrivals, sums, [&](unsigned all) {
            if (parameters.count && threadIdx.x == 0) parameters.count[strip.image] = static_cast<int>(all);
        });
    }
}

}  // namespace fastia

extern "C" __global__ void fastia_flatten_32(fastia::Flatten<unsigned> parameters) { fastia::flatten(parameters); }
extern "C" __global__ void fastia_flatten_64(fastia::Flatten<unsigned long long> parameters) {
    fastia::flatten(parameters);
}
