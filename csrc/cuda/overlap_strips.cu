// Kernel 1 of instance_iou: predicted components of each strip, and where any of the three maps changes.
#include "scene.cuh"
#include "strips.cuh"

namespace fastia {

// Runs are those of the prediction alone.
struct CutScene {
    Scene scene;
    unsigned* cuts;     // [images, rows, words]
    unsigned segments;  // between cuts, in the words of this thread

    __device__ unsigned edges(const Strip& strip, const Cursor& word) {
        const unsigned own = scene.preds.edges(strip, word);
        unsigned all = own | scene.target.edges(strip, word);
        if (scene.instances.data) all |= scene.instances.edges(strip, word);
        if (word.number < strip.words()) cuts[strip.first_word() + word.number] = all;
        segments += __popc(all);
        return own;
    }
    __device__ unsigned class_of(long long image, long long y, long long x) const {
        return scene.class_of(image, y, x);
    }
};

__device__ inline void cut_strip(const Scene& scene, const Division& division, unsigned capacity,
                                 const Results<unsigned>& results, unsigned* cuts, unsigned* segments) {
    CutScene source{scene, cuts, 0};
    label_strip<CutScene, unsigned>(source, true, division, capacity, results);
    __syncthreads();
    unsigned all;
    sum_before(source.segments, shared_span<unsigned>(0, 32), &all);
    if (threadIdx.x == 0) segments[blockIdx.x] = all;
}

}  // namespace fastia

extern "C" __global__ void __launch_bounds__(256, 4)
    fastia_overlap_strips(long long height, long long width, long long rows, FASTIA_SCENE_PARAMETERS,
                          long long capacity, fastia::Word* words, fastia::StripCounts* counts, unsigned* run_component,
                          unsigned* component_parent, unsigned short* component_class, unsigned* arrivals,
                          unsigned* first_run, unsigned* cuts, unsigned* segments) {
    fastia::cut_strip(FASTIA_SCENE, {height, width, rows}, static_cast<unsigned>(capacity),
                      {words, counts, run_component, component_parent, component_class, arrivals, nullptr, nullptr,
                       nullptr, 0, first_run},
                      cuts, segments);
}
