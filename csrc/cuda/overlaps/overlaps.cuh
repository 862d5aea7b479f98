// What instance_iou adds up: tables of instances and of overlaps, in global memory.
//
// Both are hash tables with room for more entries than the image has segments. A segment adds at most one entry to
// each, so that they cannot overflow; and only as many slots as the image's segments ask for are cleared and used.
#pragma once
#include "core/runs.cuh"

namespace fastia {

constexpr unsigned kEmpty = 0xFFFFFFFFu;
constexpr unsigned long long kEmptyKey = ~0ull;

// Of one image.
struct ImageCounts {
    unsigned slots;                        // of each table
    unsigned instances, overlaps;          // entries
    unsigned records;                      // instances that have a class
    unsigned background, predicted, both;  // pixels of background: in the target, in the prediction
};

// Pixels of components, at their roots, [images, pixels].
struct Sizes {
    unsigned *area, *hit;  // void in neither map; those of them whose target is the component's class
    unsigned* unlabelled;  // ignored by the target alone: under `wacv2024` no void to the records
    unsigned* void_area;   // void in either map
    unsigned* matched;     // of `area`, on instances of its class
    unsigned* rank;        // in its strip, among false components; kEmpty: it is none

    __device__ Sizes of_image(long long slot) const {
        return {area + slot, hit + slot, unlabelled + slot, void_area + slot, matched + slot, rank + slot};
    }
    __device__ void clear(long long slot) const {
        area[slot] = hit[slot] = unlabelled[slot] = void_area[slot] = matched[slot] = 0;
    }
    // Off void it meets nothing of its class, and no more than half of it is void.
    __device__ bool is_false(long long slot) const {
        return area[slot] && !hit[slot] && !matched[slot] && void_area[slot] <= area[slot];
    }
};

// Slots of instances and of overlaps; those of an image follow those of the image before.
struct OverlapTables {
    long long slots_per_image;
    unsigned* id;           // instance, kEmpty: none
    unsigned* area;         // of an instance, in pixels that are no void to the records
    unsigned* class_after;  // its class plus 1, 0 where it has none
    unsigned* intersection;
    unsigned long long *whole, *fraction;  // covered: whole pixels, and 2^-40 of one
    unsigned long long* order;             // [entries] id and slot
    unsigned long long* key;               // component and slot of an instance, kEmptyKey: none
    unsigned *pixels, *hit;                // of an overlap, void in neither map; those whose target is its class
    unsigned* unlabelled;                  // of an overlap, ignored by the target alone
    unsigned* overlaps;                    // [entries] slots

    __device__ OverlapTables of_image(unsigned image) const {
        const long long at = image * slots_per_image;
        return {slots_per_image, id + at,         area + at,    class_after + at, intersection + at,
                whole + at,      fraction + at,   order + at,   key + at,         pixels + at,
                hit + at,        unlabelled + at, overlaps + at};
    }
    __device__ void clear(unsigned slot) const {
        id[slot] = kEmpty;
        area[slot] = class_after[slot] = 0;
        key[slot] = kEmptyKey;
        pixels[slot] = hit[slot] = unlabelled[slot] = 0;
    }
};

// What is added up of the images of a batch, or of some of them.
struct Overlaps {
    Sizes sizes;
    ImageCounts* image_counts;  // [images]
    OverlapTables tables;
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
