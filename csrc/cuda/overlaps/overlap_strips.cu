// Kernel 1 of instance_iou: predicted components of each strip, and where any of the inputs changes.
#include "core/strips.cuh"
#include "overlaps/overlap_inputs.cuh"

namespace fastia {

struct OverlapStrips {
    Labelling<unsigned> labelling;
    OverlapInputs inputs;
    long long run_capacity;  // runs of a strip that shared memory has room for
    unsigned* cuts;          // [images, height, words] 32 pixels each
    unsigned* segments;      // [images, strips] how many lie between the cuts of a strip
};

// Runs are those of the prediction alone.
struct InputsSource {
    OverlapInputs inputs;
    unsigned* cuts;
    unsigned segments;  // in the words of this thread

    __device__ unsigned edges(const Strip& strip, const Cursor& word) {
        const unsigned own = find_edges_of_any_dtype(inputs.preds, strip, word);
        unsigned all = own | find_edges_of_any_dtype(inputs.target, strip, word);
        if (inputs.instances.data) all |= find_edges_of_any_dtype(inputs.instances, strip, word);
        if (word.number < strip.words()) cuts[strip.first_word() + word.number] = all;
        segments += __popc(all);
        return own;
    }
    __device__ unsigned class_of(long long image, long long y, long long x) const {
        return inputs.class_of(image, y, x);
    }
};

__device__ inline void overlap_strips(const OverlapStrips& parameters) {
    InputsSource source{parameters.inputs, parameters.cuts, 0};
    label_strip(source, true, static_cast<unsigned>(parameters.run_capacity), parameters.labelling);
    __syncthreads();
    unsigned all;
    sum_before(source.segments, shared_span<unsigned>(0, 32), &all);
    if (threadIdx.x == 0) parameters.segments[blockIdx.x] = all;
}

// Those that fit anyway, because of shared memory, on sm_100.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr int kOverlapBlocks = 6;
#else
constexpr int kOverlapBlocks = kBlocks;
#endif

}  // namespace fastia

extern "C" __global__ void __launch_bounds__(256, fastia::kOverlapBlocks)
    fastia_overlap_strips(fastia::OverlapStrips parameters) {
    fastia::overlap_strips(parameters);
}
