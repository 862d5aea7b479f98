// Kernel 1 of instance_iou: predicted components of each strip, and where any of the three maps changes.
#include "scene.cuh"
#include "strips.cuh"

namespace fastia {

// Under `exact` runs end where any map changes, so that none is void in part. Under `wacv2024` they are the
// prediction's own, as its contours ask for.
template <bool kExact>
struct CutScene {
    static constexpr bool kJoined = kExact;
    Scene scene;
    unsigned* cuts;     // [images, rows, words]
    unsigned segments;  // between cuts, in the words of this thread

    __device__ unsigned edges(const Strip& strip, const Cursor& word) {
        const unsigned own = scene.preds.edges(strip, word);
        unsigned all = own | scene.target.edges(strip, word);
        if (scene.instances.data) all |= scene.instances.edges(strip, word);
        if (word.number < strip.words()) cuts[strip.first_word() + word.number] = all;
        segments += __popc(all);
        return kExact ? all : own;
    }
    __device__ unsigned class_of(long long image, long long y, long long x) const {
        return scene.class_of(image, y, x);
    }
};

template <bool kExact>
__device__ void cut_strip(const Scene& scene, unsigned run_capacity, const Labelling<unsigned>& labelling,
                          unsigned* cuts, unsigned* segments) {
    CutScene<kExact> source{scene, cuts, 0};
    label_strip(source, true, run_capacity, labelling);
    __syncthreads();
    unsigned all;
    sum_before(source.segments, shared_span<unsigned>(0, 32), &all);
    if (threadIdx.x == 0) segments[blockIdx.x] = all;
}

}  // namespace fastia

#define FASTIA_OVERLAP_STRIPS(name, exact)                                                                     \
    extern "C" __global__ void __launch_bounds__(256, 4) fastia_overlap_strips_##name(                         \
        long long height, long long width, long long rows, FASTIA_SCENE_PARAMETERS, long long capacity,        \
        fastia::Word* words, fastia::StripCounts* counts, unsigned* run_component, unsigned* component_parent, \
        unsigned short* component_class, unsigned* arrivals, unsigned* first_run, unsigned* cuts,              \
        unsigned* segments) {                                                                                  \
        fastia::cut_strip<exact>(FASTIA_SCENE(exact), static_cast<unsigned>(capacity),                         \
                                 {{height, width, rows},                                                       \
                                  words,                                                                       \
                                  counts,                                                                      \
                                  run_component,                                                               \
                                  component_parent,                                                            \
                                  component_class,                                                             \
                                  first_run,                                                                   \
                                  nullptr,                                                                     \
                                  nullptr,                                                                     \
                                  nullptr,                                                                     \
                                  0,                                                                           \
                                  nullptr,                                                                     \
                                  nullptr,                                                                     \
                                  arrivals},                                                                   \
                                 cuts, segments);                                                              \
    }

FASTIA_OVERLAP_STRIPS(exact, true)
FASTIA_OVERLAP_STRIPS(wacv2024, false)
