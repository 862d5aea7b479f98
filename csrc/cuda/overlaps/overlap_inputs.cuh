// Predictions, targets and instances of a batch, read in place, whatever their dtypes.
#pragma once
#include "core/edges.cuh"

namespace fastia {

// In place of an instance.
constexpr unsigned kVoidInstance = kIgnoredClass;

// Where the dtype is known at run time only: one kernel for every combination of three.
__device__ inline long long id_of_any_dtype(const Masks& masks, long long image, long long y, long long x) {
    switch (masks.dtype) {
        case kUint8:
            return masks.id<unsigned char>(image, y, x);
        case kInt16:
            return masks.id<short>(image, y, x);
        case kUint16:
            return masks.id<unsigned short>(image, y, x);
        case kInt32:
            return masks.id<int>(image, y, x);
        default:
            return masks.id<long long>(image, y, x);
    }
}

// Where ids change does not depend on their sign.
__device__ inline unsigned find_edges_of_any_dtype(const Masks& masks, const Strip& strip, const Cursor& word) {
    switch (masks.dtype) {
        case kUint8:
            return find_edges<unsigned char>(masks, strip, word);
        case kInt16:
        case kUint16:
            return find_edges<unsigned short>(masks, strip, word);
        case kInt32:
            return find_edges<int>(masks, strip, word);
        default:
            return find_edges<long long>(masks, strip, word);
    }
}

// How ids are to be read. Those that are not allowed count as ignored or void.
struct OverlapOptions {
    long long exact;       // 0: `wacv2024`
    long long background;  // -1: none
    long long has_ignore_index, ignore_index;
    long long has_instance_ignore_index, instance_ignore_index;
    long long num_classes;  // 65536 where any id is one
    long long* error;       // nullptr, or [3, 2]: for each of the inputs 1 and an id that is not allowed
};

struct OverlapInputs {
    Masks preds, target, instances;  // instances.data nullptr: the components of the target serve
    OverlapOptions options;

    // A class, that of the background too, or kIgnoredClass.
    __device__ unsigned pred(long long image, long long y, long long x) const {
        return read(preds, 0, image, y, x, options.has_ignore_index, options.ignore_index, kLargestClass);
    }
    __device__ unsigned truth(long long image, long long y, long long x) const {
        return read(target, 1, image, y, x, options.has_ignore_index, options.ignore_index, options.num_classes - 1);
    }
    // 0: in no instance; or kVoidInstance.
    __device__ unsigned instance(long long image, long long y, long long x) const {
        return read(instances, 2, image, y, x, options.has_instance_ignore_index, options.instance_ignore_index,
                    0x7FFFFFFF);
    }
    __device__ bool is_background(unsigned class_id) const {
        return options.background >= 0 && class_id == options.background;
    }

    // What predicted components are formed of. Under `wacv2024`, instances that are given may be of the background
    // class.
    __device__ unsigned class_of(long long image, long long y, long long x) const {
        const unsigned id = pred(image, y, x);
        if (id == kIgnoredClass || id >= options.num_classes) return kIgnoredClass;
        return is_background(id) && (options.exact || !instances.data) ? kBackgroundClass : id;
    }

  private:
    __device__ unsigned read(const Masks& masks, unsigned number, long long image, long long y, long long x,
                             bool has_none, long long none, long long largest) const {
        const long long id = id_of_any_dtype(masks, image, y, x);
        if (has_none && id == none) return kIgnoredClass;
        if (id >= 0 && id <= largest) return static_cast<unsigned>(id);
        if (options.error) {
            options.error[2 * number] = 1;
            options.error[2 * number + 1] = id;
        }
        return kIgnoredClass;
    }
};

}  // namespace fastia
