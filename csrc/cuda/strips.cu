// Kernel 1: the components of each strip of the masks of label, components and weights.
#include "strips.cuh"

namespace fastia {

// Which ids form components.
struct Classes {
    long long background;  // -1: none
    bool has_ignored;
    long long ignored;
    long long* error;  // nullptr, or [2]: 1 and an id that is not allowed

    // The class, kBackground or kIgnored.
    __device__ unsigned of(long long id) const {
        if (has_ignored && id == ignored) return kIgnored;
        if (id < 0 || id > kLargestClass) {
            if (error) {
                error[0] = 1;
                error[1] = id;
            }
            return kIgnored;
        }
        return id == background ? kBackground : static_cast<unsigned>(id);
    }
};

template <class Id>
struct PlainMasks {
    Masks<Id> masks;
    Classes classes;

    __device__ unsigned edges(const Strip& strip, const Cursor& word) const { return find_edges(masks, strip, word); }
    __device__ unsigned class_of(long long image, long long y, long long x) const {
        return classes.of(static_cast<long long>(masks.id(image, y, x)));
    }
};

// Blocks of 256 threads that registers must suffice for; a multiprocessor of sm_75 has no more than 4.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr int kBlocks = 4;
#else
constexpr int kBlocks = 5;
#endif

}  // namespace fastia

#define FASTIA_STRIPS(name, Id, Index)                                                                                \
    extern "C" __global__ void __launch_bounds__(256, sizeof(Index) == 4 ? fastia::kBlocks : 4) fastia_strips_##name( \
        long long height, long long width, long long rows, const char* data, long long image_stride,                  \
        long long row_stride, long long column_stride, const char* data_begin, const char* data_end,                  \
        long long background, long long has_ignored, long long ignored, long long* error, long long diagonal,         \
        long long capacity, fastia::Word* words, fastia::StripCounts* counts, unsigned* run_component,                \
        Index* component_parent, unsigned short* component_class, unsigned* arrivals, unsigned* area, Index* total,   \
        Index* class_total, long long classes) {                                                                      \
        fastia::PlainMasks<Id> source{{data, image_stride, row_stride, column_stride, data_begin, data_end},          \
                                      {background, has_ignored != 0, ignored, error}};                                \
        fastia::label_strip<fastia::PlainMasks<Id>, Index>(                                                           \
            source, diagonal != 0, {height, width, rows}, static_cast<unsigned>(capacity),                            \
            {words, counts, run_component, component_parent, component_class, arrivals, area, total, class_total,     \
             classes, nullptr});                                                                                      \
    }
#define FASTIA_STRIPS_OF(name, Id)         \
    FASTIA_STRIPS(name##_32, Id, unsigned) \
    FASTIA_STRIPS(name##_64, Id, unsigned long long)

FASTIA_STRIPS_OF(uint8, unsigned char)
FASTIA_STRIPS_OF(int16, short)
FASTIA_STRIPS_OF(uint16, unsigned short)
FASTIA_STRIPS_OF(int32, int)
FASTIA_STRIPS_OF(int64, long long)
