// Kernels 3 and 4 of instance_iou: roots and empty tables; then the pixels of every (component, instance, class).
#include "core/ranks.cuh"
#include "overlaps/overlap_inputs.cuh"
#include "overlaps/overlaps.cuh"

namespace fastia {

struct PrepareOverlaps {
    Labelling<unsigned> labelling;
    const unsigned* segments;  // [images, strips]
    unsigned* contour_parent;  // nullptr, or [images, 2 * pixels] of run ends
    Overlaps overlaps;
};

__device__ inline void prepare_overlaps(const PrepareOverlaps& parameters) {
    const Strip strip = strip_of_block(parameters.labelling.division);
    const StripCounts counts = parameters.labelling.counts[blockIdx.x];
    const Span<unsigned> parent(parameters.labelling.component_parent + strip.image_slot(), strip.division.pixels());
    for (unsigned component = threadIdx.x; component < counts.components; component += blockDim.x) {
        const unsigned own = static_cast<unsigned>(strip.component_base()) + component;
        parent.store(own, find(parent, own));
        parameters.overlaps.sizes.clear(strip.slot + component);
    }

    if (parameters.contour_parent) {
        const unsigned first = 2 * static_cast<unsigned>(strip.component_base());
        unsigned* const contour = parameters.contour_parent + 2 * strip.slot;
        for (unsigned end = threadIdx.x; end < 2 * counts.runs; end += blockDim.x) contour[end] = first + end;
    }

    const unsigned strips = strip.division.strips();
    unsigned own = 0, all;
    for (unsigned s = threadIdx.x; s < strips; s += blockDim.x) own += parameters.segments[strip.image * strips + s];
    sum_before(own, shared_span<unsigned>(0, 32), &all);
    const unsigned slots = slots_for(all);
    const OverlapTables tables = parameters.overlaps.tables.of_image(strip.image);
    const unsigned step = strips * blockDim.x;
    for (unsigned long long slot = strip.number * blockDim.x + threadIdx.x; slot < slots; slot += step)
        tables.clear(static_cast<unsigned>(slot));
    if (strip.number == 0 && threadIdx.x == 0)
        parameters.overlaps.image_counts[strip.image] = {slots, 0, 0, 0, 0, 0, 0};
}

// The pixels of a segment, and of those in other lanes that are like it.
struct Segment {
    unsigned pixels, component, pred, truth, instance;
};

struct CountOverlaps {
    Labelling<unsigned> labelling;  // of the prediction, its parents roots or outermost components
    OverlapInputs inputs;
    const unsigned* cuts;        // [images, height, words]
    Labelling<unsigned> target;  // where its components serve as instances
    Overlaps overlaps;
    unsigned long long* confusion;  // nullptr, or [C, C + 1] to add to, of each image or of all
    long long confusion_stride;     // from image to image
};

template <bool kExact>
struct Counting {
    const OverlapInputs& inputs;
    const Sizes sizes;  // of the image
    const OverlapTables tables;
    ImageCounts* const counts;
    unsigned long long* const confusion;  // [C, C + 1]
    unsigned background, predicted, both;

    __device__ void add(const Segment& segment) {
        const unsigned pixels = segment.pixels;
        if (segment.truth != kIgnoredClass && confusion) {
            const unsigned classes = static_cast<unsigned>(inputs.options.num_classes);
            atomicAdd(
                &confusion[static_cast<unsigned long long>(segment.truth) * (classes + 1) + min(segment.pred, classes)],
                static_cast<unsigned long long>(pixels));
        }
        const bool labelled = segment.truth != kIgnoredClass, present = is_component(segment.component);
        if (present && (segment.instance == kVoidInstance || !labelled))
            atomicAdd(&sizes.void_area[segment.component], pixels);
        if (segment.instance == kVoidInstance || (kExact && !labelled)) return;  // void to the records
        const bool hit = labelled && segment.pred == segment.truth;
        if (!kExact) {
            const bool is_background = inputs.is_background(segment.pred);
            if (inputs.is_background(segment.truth)) {
                background += pixels;
                if (is_background) both += pixels;
            }
            if (is_background) predicted += pixels;
        }
        if (present) {
            atomicAdd(&(labelled ? sizes.area : sizes.unlabelled)[segment.component], pixels);
            if (hit) atomicAdd(&sizes.hit[segment.component], pixels);
        }
        if (segment.instance == 0) return;
        const unsigned slot = slot_of_instance(segment.instance);
        atomicAdd(&tables.area[slot], pixels);
        // A stale read costs one needless atomic; the result is the same.
        if (labelled && tables.class_after[slot] <= segment.truth)
            atomicMax(&tables.class_after[slot], segment.truth + 1);
        if (!present) return;
        const unsigned long long key = static_cast<unsigned long long>(segment.component) << 32 | slot;
        const unsigned overlap =
            slot_of(Span<unsigned long long>(tables.key, counts->slots), counts->slots, key,
                    [&](unsigned taken) { tables.overlaps[atomicAdd(&counts->overlaps, 1u)] = taken; });
        atomicAdd(&(labelled ? tables.pixels : tables.unlabelled)[overlap], pixels);
        if (hit) atomicAdd(&tables.hit[overlap], pixels);
    }

    __device__ unsigned slot_of_instance(unsigned instance) const {
        return slot_of(Span<unsigned>(tables.id, counts->slots), counts->slots, instance, [&](unsigned taken) {
            tables.order[atomicAdd(&counts->instances, 1u)] = static_cast<unsigned long long>(instance) << 32 | taken;
            tables.intersection[taken] = 0;  // not read before the next launch
            tables.whole[taken] = tables.fraction[taken] = 0;
        });
    }
};

template <bool kExact>
__device__ void count_overlaps(const CountOverlaps& parameters) {
    const OverlapInputs& inputs = parameters.inputs;
    const Strip strip = strip_of_block(parameters.labelling.division);
    const long long image_slot = strip.image_slot();
    const Word32* const words = parameters.labelling.words + strip.first_word();
    const unsigned* const cuts = parameters.cuts + strip.first_word();
    ImageCounts* const counts = parameters.overlaps.image_counts + strip.image;
    Counting<kExact> counting{
        inputs,
        parameters.overlaps.sizes.of_image(image_slot),
        parameters.overlaps.tables.of_image(strip.image),
        counts,
        parameters.confusion ? parameters.confusion + strip.image * parameters.confusion_stride : nullptr,
        0,
        0,
        0};
    Cursor at = words_of_thread(strip);
    for (unsigned first = 0; first < strip.words(); first += blockDim.x, at.advance()) {
        const bool present = at.number < strip.words();
        const unsigned edges = present ? cuts[at.number] : 0;
        const unsigned width = present ? strip.word_width(at.column) : 0;
        const long long y = strip.first_row + at.row;
        for (unsigned begin = 0; __any_sync(kAllLanes, begin < width);) {
            Segment segment{0, kNoComponent, kIgnoredClass, kIgnoredClass, kVoidInstance};
            if (begin < width) {
                const unsigned later = begin < 31 ? edges >> (begin + 1) : 0;
                const unsigned end = later ? begin + __ffs(later) : width;
                const long long x = 32LL * at.column + begin;
                const unsigned component = parameters.labelling.run_component[strip.slot + words[at.number].run(begin)];
                segment = {end - begin, component, inputs.pred(strip.image, y, x), inputs.truth(strip.image, y, x), 0};
                if (is_component(component))
                    segment.component =
                        parameters.labelling.component_parent[image_slot + strip.component_base() + component];
                if (inputs.instances.data) {
                    segment.instance = inputs.instance(strip.image, y, x);
                } else if (segment.truth == kIgnoredClass) {
                    segment.instance = kVoidInstance;
                } else {
                    const Labels<unsigned> labels(strip, parameters.target);
                    const Word32 word = parameters.target.words[strip.first_word() + at.number];
                    const unsigned own = parameters.target.run_component[strip.slot + word.run(begin)];
                    if (is_component(own))
                        segment.instance = labels.of(static_cast<unsigned>(strip.component_base()) + own);
                }
                begin = end;
            }
            // Many segments of a large component or instance would have as many atomics wait for each other.
            using Key = unsigned long long;
            Peers<Key> peers(static_cast<Key>(segment.component) << 32 | segment.instance);
            peers.lanes &= Peers<Key>(static_cast<Key>(segment.pred) << 32 | segment.truth).lanes;
            segment.pixels = peers.sum(segment.pixels);
            if (peers.first() && segment.pixels) counting.add(segment);
            __syncwarp(kAllLanes);
        }
    }
    if (!kExact) {
        const unsigned background = sum_over(kAllLanes, counting.background);
        const unsigned predicted = sum_over(kAllLanes, counting.predicted);
        const unsigned both = sum_over(kAllLanes, counting.both);
        if (threadIdx.x % 32 == 0) {
            if (background) atomicAdd(&counts->background, background);
            if (predicted) atomicAdd(&counts->predicted, predicted);
            if (both) atomicAdd(&counts->both, both);
        }
    }
}

}  // namespace fastia

extern "C" __global__ void fastia_prepare_overlaps(fastia::PrepareOverlaps parameters) {
    fastia::prepare_overlaps(parameters);
}
extern "C" __global__ void fastia_count_overlaps_exact(fastia::CountOverlaps parameters) {
    fastia::count_overlaps<true>(parameters);
}
extern "C" __global__ void fastia_count_overlaps_wacv2024(fastia::CountOverlaps parameters) {
    fastia::count_overlaps<false>(parameters);
}
