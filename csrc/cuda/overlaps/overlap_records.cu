// Kernels 5 to 7 of instance_iou: components on instances of their class, and instances in order; shares of components,
// and ranks of false ones; records.
#include "core/ranks.cuh"
#include "overlaps/overlaps.cuh"

namespace fastia {

// Sorts keys by a bitonic network whose first step of each stage mirrors, so that all comparisons point the same way
// and keys beyond the last need not exist.
__device__ inline void sort_keys(Span<unsigned long long> keys, unsigned count) {
    const auto order = [&](unsigned long long a, unsigned long long b) {
        if (b >= count) return;
        const unsigned long long first = keys[a], second = keys[b];
        if (first > second) {
            keys[a] = second;
            keys[b] = first;
        }
    };
    for (unsigned long long size = 2; size / 2 < count; size *= 2) {
        const unsigned long long pairs = (count + size - 1) / size * (size / 2);
        for (unsigned long long pair = threadIdx.x; pair < pairs; pair += blockDim.x) {
            const unsigned long long offset = pair % (size / 2), begin = (pair - offset) * 2;
            order(begin + offset, begin + size - 1 - offset);
        }
        __syncthreads();
        for (unsigned long long half = size / 4; half > 0; half /= 2) {
            for (unsigned long long pair = threadIdx.x; pair < pairs; pair += blockDim.x) {
                const unsigned long long offset = pair % half, begin = (pair - offset) * 2;
                order(begin + offset, begin + offset + half);
            }
            __syncthreads();
        }
    }
}

// By one block: the instances of an image that have a record, ascending by id, in front of those that have none.
// Returns how many these are.
template <class HasRecord>
__device__ unsigned sort_instances(const OverlapTables& tables, unsigned instances, unsigned instance_capacity,
                                   HasRecord has_record) {
    const Span<unsigned> sums = shared_span<unsigned>(0, 32);
    const Span<unsigned long long> order(tables.order, instances);
    const bool fits = instances <= instance_capacity;
    const Span<unsigned long long> shared = shared_span<unsigned long long>(kSumsBytes, instance_capacity);
    unsigned own = 0, records;
    for (unsigned i = threadIdx.x; i < instances; i += blockDim.x) {
        unsigned long long key = order[i];
        const unsigned slot = static_cast<unsigned>(key);
        if (has_record(tables.class_after[slot]))
            ++own;
        else
            key |= static_cast<unsigned long long>(kEmpty) << 32;
        (fits ? shared : order).store(i, key);
    }
    sum_before(own, sums, &records);
    if (fits) {
        sort_keys(shared, instances);
        for (unsigned i = threadIdx.x; i < instances; i += blockDim.x) order.store(i, shared[i]);
    } else {
        sort_keys(order, instances);
    }
    return records;
}

// Calls visit(overlap, component, instance) for the overlaps first, first + step, ... of an image whose component and
// instance are of one class.
template <class Visit>
__device__ void for_each_match(const OverlapTables& tables, const unsigned short* component_class, unsigned overlaps,
                               unsigned first, unsigned step, Visit visit) {
    for (unsigned long long i = first; i < overlaps; i += step) {
        const unsigned overlap = tables.overlaps[i];
        const unsigned long long key = tables.key[overlap];
        const unsigned component = static_cast<unsigned>(key >> 32), instance = static_cast<unsigned>(key);
        if (tables.class_after[instance] == component_class[component] + 1u) visit(overlap, component, instance);
    }
}

struct MatchComponents {
    Labelling<unsigned> labelling;
    long long images;
    long long background;  // class, -1: none
    Overlaps overlaps;
    long long instance_capacity;  // instances of an image that shared memory has room to sort
    int* count;                   // [images] records
};

template <bool kExact>
__device__ void match_components(const MatchComponents& parameters) {
    if (blockIdx.x < parameters.images) {
        const OverlapTables tables = parameters.overlaps.tables.of_image(blockIdx.x);
        ImageCounts& counts = parameters.overlaps.image_counts[blockIdx.x];
        const unsigned capacity = static_cast<unsigned>(parameters.instance_capacity);
        const unsigned records = sort_instances(tables, counts.instances, capacity, [&](unsigned class_after) {
            return class_after && !(kExact && class_after == parameters.background + 1);
        });
        if (threadIdx.x == 0) {
            counts.records = records;
            parameters.count[blockIdx.x] = static_cast<int>(records + (counts.background ? 1 : 0));
        }
    } else {
        const Division& division = parameters.labelling.division;
        const unsigned block = blockIdx.x - static_cast<unsigned>(parameters.images), strips = division.strips();
        const unsigned image = block / strips;
        const long long image_slot = image * division.pixels();
        const Sizes sizes = parameters.overlaps.sizes.of_image(image_slot);
        const OverlapTables tables = parameters.overlaps.tables.of_image(image);
        for_each_match(tables, parameters.labelling.component_class + image_slot,
                       parameters.overlaps.image_counts[image].overlaps, block % strips * blockDim.x + threadIdx.x,
                       strips * blockDim.x, [&](unsigned overlap, unsigned component, unsigned) {
                           if (tables.pixels[overlap]) atomicAdd(&sizes.matched[component], tables.pixels[overlap]);
                       });
    }
}

struct ShareComponents {
    Labelling<unsigned> labelling;
    long long background;  // class, -1: none
    Overlaps overlaps;
    unsigned* strip_unmatched;  // [images, strips] false components, then those of the strips before
    int* unmatched_count;       // [images]
};

// The part of a component that lies outside of all instances of its class goes to those that it overlaps, in
// proportion.
template <bool kExact>
__device__ void add_shares(const ShareComponents& parameters, const Strip& strip) {
    const Sizes sizes = parameters.overlaps.sizes.of_image(strip.image_slot());
    const OverlapTables tables = parameters.overlaps.tables.of_image(strip.image);
    const unsigned short* const component_class = parameters.labelling.component_class + strip.image_slot();
    const unsigned overlaps = parameters.overlaps.image_counts[strip.image].overlaps;
    for_each_match(tables, component_class, overlaps, strip.number * blockDim.x + threadIdx.x,
                   strip.division.strips() * blockDim.x, [&](unsigned overlap, unsigned component, unsigned instance) {
                       const unsigned pixels = tables.pixels[overlap] + tables.unlabelled[overlap];
                       const unsigned other =
                           kExact ? sizes.matched[component] - pixels : sizes.hit[component] - tables.hit[overlap];
                       const unsigned rest = sizes.area[component] + sizes.unlabelled[component] - pixels - other;
                       const double part = __ddiv_rn(static_cast<double>(pixels), static_cast<double>(pixels + other));
                       const double share = __dmul_rn(part, static_cast<double>(rest));
                       const unsigned whole = static_cast<unsigned>(share);
                       atomicAdd(&tables.intersection[instance], pixels);
                       atomicAdd(&tables.whole[instance], pixels + static_cast<unsigned long long>(whole));
                       if (kExact) {
                           const double fraction =
                               __dmul_rn(__dsub_rn(share, static_cast<double>(whole)), 1099511627776.0);  // 2^40
                           atomicAdd(&tables.fraction[instance],
                                     static_cast<unsigned long long>(__double2ll_rn(fraction)));
                       }
                   });
}

__device__ inline void rank_false_components(const ShareComponents& parameters, const Strip& strip) {
    const Labelling<unsigned>& labelling = parameters.labelling;
    const Sizes& sizes = parameters.overlaps.sizes;
    const unsigned components = labelling.counts[blockIdx.x].components;
    const Span<unsigned> sums = shared_span<unsigned>(0, 32);
    unsigned unmatched = 0;
    for (unsigned first = 0; first < components; first += blockDim.x) {
        const unsigned component = first + threadIdx.x;
        const long long slot = strip.slot + component;
        const bool counted = component < components &&
                             labelling.component_parent[slot] == strip.component_base() + component &&
                             labelling.component_class[slot] != parameters.background && sizes.is_false(slot);
        unsigned all;
        const unsigned before = sum_before(counted, sums, &all);
        if (component < components) sizes.rank[slot] = counted ? unmatched + before : kEmpty;
        unmatched += all;
    }
    rank_strips(strip, unmatched, parameters.strip_unmatched, labelling.arrivals, sums, [&](unsigned all) {
        if (threadIdx.x == 0) parameters.unmatched_count[strip.image] = static_cast<int>(all);
    });
}

template <bool kExact>
__device__ void share_components(const ShareComponents& parameters) {
    const Strip strip = strip_of_block(parameters.labelling.division);
    add_shares<kExact>(parameters, strip);
    rank_false_components(parameters, strip);
}

struct Record {
    int class_id, instance_id;
    long long area, intersection;
    double covered, iou;
};

// The outputs: [images, columns] of instances, [images, unmatched_columns] of unmatched components.
struct Records {
    long long columns, unmatched_columns;
    int *class_id, *instance_id;
    long long *area, *intersection;
    double *covered, *iou;
    int* unmatched_class_id;
    long long* unmatched_area;

    __device__ void set(long long image, long long column, const Record& record) const {
        if (column >= columns) return;
        const long long at = image * columns + column;
        class_id[at] = record.class_id;
        instance_id[at] = record.instance_id;
        area[at] = record.area;
        intersection[at] = record.intersection;
        covered[at] = record.covered;
        iou[at] = record.iou;
    }
    __device__ void set_unmatched(long long image, long long column, int class_of, long long pixels) const {
        if (column >= unmatched_columns) return;
        unmatched_class_id[image * unmatched_columns + column] = class_of;
        unmatched_area[image * unmatched_columns + column] = pixels;
    }
    // Columns first, first + step, ... after those of the image are none.
    __device__ void pad(long long image, long long count, long long unmatched, long long first, long long step) const {
        const double nan = __longlong_as_double(0x7FF8000000000000);
        for (long long column = count + first; column < columns; column += step)
            set(image, column, {-1, -1, 0, 0, 0, nan});
        for (long long column = unmatched + first; column < unmatched_columns; column += step)
            set_unmatched(image, column, -1, 0);
    }
};

// The metric's sums by class and size.
struct Tally {
    unsigned long long* sums;  // nullptr, or [3, C, 4] to add to: instances, unmatched components, rint(iou * 2^36)
    long long num_classes;     // C

    // Sizes of COCO; 0 is the background.
    __device__ static unsigned size_of(unsigned area) { return area < 32 * 32 ? 1 : area < 96 * 96 ? 2 : 3; }
    __device__ void add(unsigned class_id, unsigned size, double iou) const {
        if (!sums) return;
        const unsigned long long cell = 4ull * class_id + size;
        atomicAdd(&sums[cell], 1ull);
        atomicAdd(&sums[8 * num_classes + cell],
                  static_cast<unsigned long long>(__double2ll_rn(__dmul_rn(iou, 68719476736.0))));  // 2^36
    }
    __device__ void add_unmatched(unsigned class_id, unsigned area) const {
        if (sums) atomicAdd(&sums[4 * num_classes + 4ull * class_id + size_of(area)], 1ull);
    }
};

__device__ inline double iou_of(unsigned area, unsigned intersection, double covered) {
    const double shared = static_cast<double>(intersection);
    return __ddiv_rn(shared, __dsub_rn(__dadd_rn(static_cast<double>(area), covered), shared));
}

struct FillRecords {
    Labelling<unsigned> labelling;
    long long background;  // class, -1: none
    Overlaps overlaps;
    const unsigned* strip_unmatched;  // [images, strips] false components of the strips before
    const int *count, *unmatched_count;
    Records records;
    Tally tally;
};

__device__ inline void fill_records(const FillRecords& parameters) {
    const Sizes& sizes = parameters.overlaps.sizes;
    const Records& records = parameters.records;
    const Tally& tally = parameters.tally;
    const unsigned short* const component_class = parameters.labelling.component_class;
    const long long background = parameters.background;
    const Strip strip = strip_of_block(parameters.labelling.division);
    const unsigned image = strip.image, strips = strip.division.strips();
    const unsigned first = strip.number * blockDim.x + threadIdx.x, step = strips * blockDim.x;
    const ImageCounts counts = parameters.overlaps.image_counts[image];
    const OverlapTables tables = parameters.overlaps.tables.of_image(image);
    const unsigned before = counts.background ? 1 : 0;
    if (before && first == 0) {
        const double covered = static_cast<double>(counts.predicted),
                     iou = iou_of(counts.background, counts.both, covered);
        records.set(image, 0, {static_cast<int>(background), 0, counts.background, counts.both, covered, iou});
        tally.add(static_cast<unsigned>(background), 0, iou);
    }
    for (unsigned long long i = first; i < counts.records; i += step) {
        const unsigned slot = static_cast<unsigned>(tables.order[i]);
        const unsigned id = tables.id[slot], class_id = tables.class_after[slot] - 1;
        const unsigned area = tables.area[slot], intersection = tables.intersection[slot];
        const double whole = static_cast<double>(tables.whole[slot]);
        const double fraction = __ddiv_rn(static_cast<double>(tables.fraction[slot]), 1099511627776.0);  // 2^40
        const double covered = __dadd_rn(whole, fraction), iou = iou_of(area, intersection, covered);
        records.set(image, i + before,
                    {static_cast<int>(class_id), static_cast<int>(id), area, intersection, covered, iou});
        tally.add(class_id, class_id == background ? 0 : Tally::size_of(area), iou);
    }
    for (unsigned component = threadIdx.x; component < parameters.labelling.counts[blockIdx.x].components;
         component += blockDim.x) {
        const long long slot = strip.slot + component;
        const unsigned rank = sizes.rank[slot];
        if (rank == kEmpty) continue;
        const unsigned column = parameters.strip_unmatched[image * strips + strip.number] + rank;
        records.set_unmatched(image, column, component_class[slot], sizes.area[slot]);
        tally.add_unmatched(component_class[slot], sizes.area[slot]);
    }
    records.pad(image, parameters.count[image], parameters.unmatched_count[image], first, step);
}

// Records of images without pixels, one block each.
struct EmptyRecords {
    int *count, *unmatched_count;
    Records records;
};

__device__ inline void empty_records(const EmptyRecords& parameters) {
    if (threadIdx.x == 0) parameters.count[blockIdx.x] = parameters.unmatched_count[blockIdx.x] = 0;
    parameters.records.pad(blockIdx.x, 0, 0, threadIdx.x, blockDim.x);
}

}  // namespace fastia

extern "C" __global__ void fastia_match_components_exact(fastia::MatchComponents parameters) {
    fastia::match_components<true>(parameters);
}
extern "C" __global__ void fastia_match_components_wacv2024(fastia::MatchComponents parameters) {
    fastia::match_components<false>(parameters);
}
extern "C" __global__ void fastia_share_components_exact(fastia::ShareComponents parameters) {
    fastia::share_components<true>(parameters);
}
extern "C" __global__ void fastia_share_components_wacv2024(fastia::ShareComponents parameters) {
    fastia::share_components<false>(parameters);
}
extern "C" __global__ void fastia_fill_records(fastia::FillRecords parameters) { fastia::fill_records(parameters); }
extern "C" __global__ void fastia_empty_records(fastia::EmptyRecords parameters) { fastia::empty_records(parameters); }
