// What instance_iou adds up: tables of instances and of overlaps, in global memory.
//
// Both are hash tables with room for more entries than the image has segments. A segment adds at most one entry to
// each, so that they cannot overflow; and only as many slots as the image's segments ask for are cleared and used.
#pragma once
#include "runs.cuh"

namespace fastia {

constexpr unsigned kEmpty = 0xFFFFFFFFu;
constexpr unsigned long long kEmptyKey = ~0ull;

// Of one image, [images].
struct ImageCounts {
    unsigned slots;                        // of each table
    unsigned instances, overlaps;          // entries
    unsigned records;                      // instances that have a class
    unsigned background, predicted, both;  // pixels of background: in the target, in the prediction
};

// Sums over the pixels off void of components, at their roots, [images, pixels].
struct Sizes {
    unsigned *pixels, *of_class;  // those whose target is the component's class
    unsigned* rank;               // 0, or kMatched; then in its strip, among components that no instance matches

    __device__ Sizes of_image(long long slot) const { return {pixels + slot, of_class + slot, rank + slot}; }
};
constexpr unsigned kMatched = 1;

// The slots of an image follow those of the image before, `capacity` each.
struct OverlapTables {
    long long capacity;
    unsigned* id;           // instance, kEmpty: none
    unsigned* area;         // of an instance
    unsigned* class_after;  // its class plus 1, 0 where it has none
    unsigned* intersection;
    unsigned long long *whole, *fraction;  // covered: whole pixels, and 2^-40 of one
    unsigned long long* order;             // [entries] id and slot
    unsigned long long* key;               // component and slot of an instance, kEmptyKey: none
    unsigned *pixels, *of_class;           // of an overlap; those whose target is the component's class
    unsigned* overlaps;                    // [entries] slots

    __device__ OverlapTables of_image(unsigned image) const {
        const long long at = image * capacity;
        return {capacity,      id + at,    area + at, class_after + at, intersection + at, whole + at,
                fraction + at, order + at, key + at,  pixels + at,      of_class + at,     overlaps + at};
    }
    __device__ void clear(unsigned slot) const {
        id[slot] = kEmpty;
        area[slot] = class_after[slot] = 0;
        key[slot] = kEmptyKey;
        pixels[slot] = of_class[slot] = 0;
    }
};

// Slots for that many segments: a fifth of them stays free.
__device__ inline unsigned slots_for(unsigned segments) { return segments + segments / 4 + 1; }

__device__ inline unsigned scrambled(unsigned long long key) {
    key ^= key >> 33;
    key *= 0xFF51AFD7ED558CCDull;
    key ^= key >> 33;
    key *= 0xC4CEB9FE1A85EC53ull;
    return static_cast<unsigned>(key >> 32);
}

// The slot of a key, which it takes where no thread has: then that one calls taken(slot).
template <class Key, class Taken>
__device__ unsigned slot_of(Span<Key> keys, unsigned slots, Key key, Taken taken) {
    constexpr Key kNone = static_cast<Key>(kEmptyKey);
    unsigned slot = static_cast<unsigned>(static_cast<unsigned long long>(scrambled(key)) * slots >> 32);
    for (;;) {
        Key found = keys.load(slot);
        if (found == kNone) {
            found = atomicCAS(&keys[slot], kNone, key);
            if (found == kNone) taken(slot);
        }
        if (found == kNone || found == key) return slot;
        if (++slot == slots) slot = 0;
    }
}

}  // namespace fastia

#define FASTIA_SIZES_PARAMETERS unsigned *size, unsigned *size_of_class, unsigned *rank
#define FASTIA_SIZES {size, size_of_class, rank}
#define FASTIA_TABLES_PARAMETERS                                                                         \
    long long table_capacity, unsigned *instance_id, unsigned *instance_area, unsigned *instance_class,  \
        unsigned *intersection, unsigned long long *covered_whole, unsigned long long *covered_fraction, \
        unsigned long long *order, unsigned long long *overlap_key, unsigned *overlap_pixels,            \
        unsigned *overlap_of_class, unsigned *overlap_slots
#define FASTIA_TABLES                                                                               \
    {table_capacity,   instance_id, instance_area, instance_class, intersection,     covered_whole, \
     covered_fraction, order,       overlap_key,   overlap_pixels, overlap_of_class, overlap_slots}
