// Kernel 1: the components of each strip of the masks of label, components and weights.
#include "core/strips.cuh"

namespace fastia {

// Which ids form components, and where these touch.
struct ComponentOptions {
    long long connectivity;      // 4 or 8
    long long background;        // -1: none
    long long has_ignore_index;  // 0 or 1
    long long ignore_index;
    long long* error;  // nullptr, or [2]: 1 and an id that is not allowed

    // The class of an id, kBackgroundClass or kIgnoredClass.
    __device__ unsigned class_of(long long id) const {
        if (has_ignore_index && id == ignore_index) return kIgnoredClass;
        if (id < 0 || id > kLargestClass) {
            if (error) {
                error[0] = 1;
                error[1] = id;
            }
            return kIgnoredClass;
        }
        return id == background ? kBackgroundClass : static_cast<unsigned>(id);
    }
};

template <class Index>
struct Strips {
    Labelling<Index> labelling;
    Masks masks;
    ComponentOptions options;
    long long run_capacity;  // runs of a strip that shared memory has room for
};

template <class Id>
struct MasksSource {
    const Masks& masks;
    const ComponentOptions& options;

    __device__ unsigned edges(const Strip& strip, const Cursor& word) const {
        return find_edges<Id>(masks, strip, word);
    }
    __device__ unsigned class_of(long long image, long long y, long long x) const {
        return options.class_of(static_cast<long long>(masks.id<Id>(image, y, x)));
    }
};

template <class Id, class Index>
__device__ void find_components(const Strips<Index>& parameters) {
    MasksSource<Id> source{parameters.masks, parameters.options};
    label_strip(source, parameters.options.connectivity == 8, static_cast<unsigned>(parameters.run_capacity),
                parameters.labelling);
}

}  // namespace fastia

#define FASTIA_STRIPS(name, Id)                                                    \
    extern "C" __global__ void __launch_bounds__(256, fastia::kBlocks)             \
        fastia_strips_##name##_32(fastia::Strips<unsigned> parameters) {           \
        fastia::find_components<Id>(parameters);                                   \
    }                                                                              \
    extern "C" __global__ void __launch_bounds__(256, 4)                           \
        fastia_strips_##name##_64(fastia::Strips<unsigned long long> parameters) { \
        fastia::find_components<Id>(parameters);                                   \
    }

FASTIA_STRIPS(uint8, unsigned char)
FASTIA_STRIPS(int16, short)
FASTIA_STRIPS(uint16, unsigned short)
FASTIA_STRIPS(int32, int)
FASTIA_STRIPS(int64, long long)
