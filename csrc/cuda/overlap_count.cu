// Kernels 3 and 4 of instance_iou: roots and empty tables; then the pixels of every (component, instance, class).
#include "overlaps.cuh"
#include "ranks.cuh"
#include "scene.cuh"

namespace fastia {

__device__ inline void prepare_overlaps(const Division& division, const StripCounts* counts, unsigned* component_parent,
                                        const unsigned* segments, unsigned* contour_parent, const Sizes& sizes,
                                        ImageCounts* image_counts, const OverlapTables& batch_tables) {
    const Strip strip = strip_of_block(division);
    const Span<unsigned> parent(component_parent + strip.image_slot(), division.pixels());
    for (unsigned component = threadIdx.x; component < counts[blockIdx.x].components; component += blockDim.x) {
        const unsigned own = static_cast<unsigned>(strip.component_base()) + component;
        parent.store(own, find(parent, own));
        sizes.clear(strip.slot + component);
    }

    if (contour_parent) {
        const unsigned first = 2 * static_cast<unsigned>(strip.component_base());
        unsigned* const contour = contour_parent + 2 * strip.slot;
        for (unsigned end = threadIdx.x; end < 2 * counts[blockIdx.x].runs; end += blockDim.x)
            contour[end] = first + end;
    }

    const unsigned strips = division.strips();
    unsigned own = 0, all;
    for (unsigned s = threadIdx.x; s < strips; s += blockDim.x) own += segments[strip.image * strips + s];
    sum_before(own, shared_span<unsigned>(0, 32), &all);
    const unsigned slots = slots_for(all);
    const OverlapTables tables = batch_tables.of_image(strip.image);
    const unsigned step = strips * blockDim.x;
    for (unsigned long long slot = strip.number * blockDim.x + threadIdx.x; slot < slots; slot += step)
        tables.clear(static_cast<unsigned>(slot));
    if (strip.number == 0 && threadIdx.x == 0) image_counts[strip.image] = {slots, 0, 0, 0, 0, 0, 0};
}

// The pixels of a segment, and of those in other lanes that are like it.
struct Segment {
    unsigned pixels, component, pred, truth, instance;
};

// Where the components of the target serve as instances, [images, pixels]; else nullptr.
struct TargetLabels {
    const Word* words;
    const unsigned *run_component, *component_parent, *rank, *strip_roots;
};

template <bool kExact>
struct Counting {
    const Scene& scene;
    const Sizes sizes;  // of the image
    const OverlapTables tables;
    ImageCounts* const counts;
    unsigned long long* const confusion;  // [C, C + 1]
    unsigned background, predicted, both;

    __device__ void add(const Segment& segment) {
        const unsigned pixels = segment.pixels;
        if (segment.truth != kIgnored && confusion) {
            const unsigned classes = static_cast<unsigned>(scene.classes);
            atomicAdd(
                &confusion[static_cast<unsigned long long>(segment.truth) * (classes + 1) + min(segment.pred, classes)],
                static_cast<unsigned long long>(pixels));
        }
        const bool labelled = segment.truth != kIgnored, present = is_component(segment.component);
        if (present && (segment.instance == kIgnored || !labelled))
            atomicAdd(&sizes.void_area[segment.component], pixels);
        if (segment.instance == kIgnored || (kExact && !labelled)) return;  // void to the records
        const bool hit = labelled && segment.pred == segment.truth;
        if (!kExact) {
            const bool is_background = scene.is_background(segment.pred);
            if (scene.is_background(segment.truth)) {
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
        // An old value read here is one atomic too many, no more.
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
__device__ void count_overlaps(const Scene& scene, const Division& division, const Word* batch_words,
                               const unsigned* run_component, const unsigned* component_root,
                               const unsigned* batch_cuts, const TargetLabels& target, const Sizes& sizes,
                               ImageCounts* image_counts, const OverlapTables& tables, unsigned long long* confusion,
                               long long confusion_stride) {
    const Strip strip = strip_of_block(division);
    const long long image_slot = strip.image_slot();
    const Word* const words = batch_words + strip.first_word();
    const unsigned* const cuts = batch_cuts + strip.first_word();
    Counting<kExact> counting{scene,
                              sizes.of_image(image_slot),
                              tables.of_image(strip.image),
                              image_counts + strip.image,
                              confusion ? confusion + strip.image * confusion_stride : nullptr,
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
            Segment segment{0, kIgnored, kIgnored, kIgnored, kIgnored};
            if (begin < width) {
                const unsigned later = begin < 31 ? edges >> (begin + 1) : 0;
                const unsigned end = later ? begin + __ffs(later) : width;
                const long long x = 32LL * at.column + begin;
                const unsigned component = run_component[strip.slot + words[at.number].run(begin)];
                segment = {end - begin, component, scene.pred(strip.image, y, x), scene.truth(strip.image, y, x), 0};
                if (is_component(component))
                    segment.component = component_root[image_slot + strip.component_base() + component];
                if (scene.instances.data) {
                    segment.instance = scene.instance(strip.image, y, x);
                } else if (segment.truth == kIgnored) {
                    segment.instance = kIgnored;
                } else {
                    const Labels<unsigned> labels(strip, target.component_parent, target.rank, target.strip_roots);
                    const Word word = target.words[strip.first_word() + at.number];
                    const unsigned own = target.run_component[strip.slot + word.run(begin)];
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
            ImageCounts* const counts = image_counts + strip.image;
            if (background) atomicAdd(&counts->background, background);
            if (predicted) atomicAdd(&counts->predicted, predicted);
            if (both) atomicAdd(&counts->both, both);
        }
    }
}

}  // namespace fastia

extern "C" __global__ void fastia_prepare_overlaps(long long height, long long width, long long rows,
                                                   const fastia::StripCounts* strip_counts, unsigned* component_parent,
                                                   const unsigned* segments, unsigned* contour_parent,
                                                   FASTIA_SIZES_PARAMETERS, fastia::ImageCounts* image_counts,
                                                   FASTIA_TABLES_PARAMETERS) {
    fastia::prepare_overlaps({height, width, rows}, strip_counts, component_parent, segments, contour_parent,
                             FASTIA_SIZES, image_counts, FASTIA_TABLES);
}

#define FASTIA_COUNT_OVERLAPS(name, kExact)                                                                     \
    extern "C" __global__ void fastia_count_overlaps_##name(                                                    \
        long long height, long long width, long long rows, FASTIA_SCENE_PARAMETERS, const fastia::Word* words,  \
        const unsigned* run_component, const unsigned* component_root, const unsigned* cuts,                    \
        const fastia::Word* target_words, const unsigned* target_run_component, const unsigned* target_parent,  \
        const unsigned* target_rank, const unsigned* target_strip_roots, FASTIA_SIZES_PARAMETERS,               \
        fastia::ImageCounts* image_counts, FASTIA_TABLES_PARAMETERS, unsigned long long* confusion,             \
        long long confusion_stride) {                                                                           \
        fastia::count_overlaps<kExact>(                                                                         \
            FASTIA_SCENE, {height, width, rows}, words, run_component, component_root, cuts,                    \
            {target_words, target_run_component, target_parent, target_rank, target_strip_roots}, FASTIA_SIZES, \
            image_counts, FASTIA_TABLES, confusion, confusion_stride);                                          \
    }

FASTIA_COUNT_OVERLAPS(exact, true)
FASTIA_COUNT_OVERLAPS(wacv2024, false)
