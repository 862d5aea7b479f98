// Predictions, targets and instances of a batch, read in place, whatever their dtypes.
#pragma once
#include "edges.cuh"

namespace fastia {

enum Dtype : long long { kUint8, kInt16, kUint16, kInt32, kInt64 };

// A map whose dtype is known at run time only: one kernel for every combination of three.
struct Map {
    const char* data;  // nullptr: no such map
    long long image_stride, row_stride, column_stride;
    const char *begin, *end;
    long long dtype;

    __device__ long long id(long long image, long long y, long long x) const {
        const char* const at = data + image * image_stride + y * row_stride + x * column_stride;
        switch (dtype) {
            case kUint8:
                return *reinterpret_cast<const unsigned char*>(at);
            case kInt16:
                return *reinterpret_cast<const short*>(at);
            case kUint16:
                return *reinterpret_cast<const unsigned short*>(at);
            case kInt32:
                return *reinterpret_cast<const int*>(at);
            default:
                return *reinterpret_cast<const long long*>(at);
        }
    }
    // As find_edges. Where ids change does not depend on their sign.
    __device__ unsigned edges(const Strip& strip, const Cursor& word) const {
        switch (dtype) {
            case kUint8:
                return find_edges(as<unsigned char>(), strip, word);
            case kInt16:
            case kUint16:
                return find_edges(as<unsigned short>(), strip, word);
            case kInt32:
                return find_edges(as<int>(), strip, word);
            default:
                return find_edges(as<long long>(), strip, word);
        }
    }

  private:
    template <class Id>
    __device__ Masks<Id> as() const {
        return {data, image_stride, row_stride, column_stride, begin, end};
    }
};

// The three maps, and how their ids are to be read. Ids that are not allowed count as ignored or void.
struct Scene {
    Map preds, target, instances;
    bool exact;
    long long background;  // -1: none
    bool has_ignored;
    long long ignored;
    bool has_void;
    long long void_id;
    long long classes;  // 65536 where any id is one
    long long* error;   // nullptr, or [3, 2]: for each map 1 and an id that is not allowed

    // A class id, background too, or kIgnored.
    __device__ unsigned pred(long long image, long long y, long long x) const {
        return read(preds, 0, image, y, x, has_ignored, ignored, kLargestClass);
    }
    __device__ unsigned truth(long long image, long long y, long long x) const {
        return read(target, 1, image, y, x, has_ignored, ignored, classes - 1);
    }
    // 0: in no instance; kIgnored: void.
    __device__ unsigned instance(long long image, long long y, long long x) const {
        return read(instances, 2, image, y, x, has_void, void_id, 0x7FFFFFFF);
    }
    __device__ bool is_background(unsigned id) const { return background >= 0 && id == background; }

    // What predicted components are formed of. Under `wacv2024`, instances that are given may be of the background
    // class.
    __device__ unsigned class_of(long long image, long long y, long long x) const {
        const unsigned id = pred(image, y, x);
        if (id == kIgnored || id >= classes) return kIgnored;
        return is_background(id) && (exact || !instances.data) ? kBackground : id;
    }

  private:
    __device__ unsigned read(const Map& map, unsigned number, long long image, long long y, long long x, bool has_none,
                             long long none, long long largest) const {
        const long long id = map.id(image, y, x);
        if (has_none && id == none) return kIgnored;
        if (id >= 0 && id <= largest) return static_cast<unsigned>(id);
        if (error) {
            error[2 * number] = 1;
            error[2 * number + 1] = id;
        }
        return kIgnored;
    }
};

}  // namespace fastia

#define FASTIA_MAP_PARAMETERS(map)                                                                            \
    const char *map, long long map##_image_stride, long long map##_row_stride, long long map##_column_stride, \
        const char *map##_begin, const char *map##_end, long long map##_dtype
#define FASTIA_MAP(map) \
    {map, map##_image_stride, map##_row_stride, map##_column_stride, map##_begin, map##_end, map##_dtype}
#define FASTIA_SCENE_PARAMETERS                                                                                     \
    FASTIA_MAP_PARAMETERS(preds), FASTIA_MAP_PARAMETERS(target), FASTIA_MAP_PARAMETERS(instances), long long exact, \
        long long background, long long has_ignored, long long ignored, long long has_void, long long void_id,      \
        long long classes, long long *error
#define FASTIA_SCENE        \
    {FASTIA_MAP(preds),     \
     FASTIA_MAP(target),    \
     FASTIA_MAP(instances), \
     exact != 0,            \
     background,            \
     has_ignored != 0,      \
     ignored,               \
     has_void != 0,         \
     void_id,               \
     classes,               \
     error}
