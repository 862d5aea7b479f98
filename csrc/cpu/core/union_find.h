// Union-find over arrays of parents, where a set's root is its smallest element.
#pragma once
#include <cstdint>

namespace fastia {

inline uint32_t find(uint32_t* parent, uint32_t element) {
    while (parent[element] != element) {
        parent[element] = parent[parent[element]];
        element = parent[element];
    }
    return element;
}

// Both are roots, equal ones too.
inline void link(uint32_t* parent, uint32_t a, uint32_t b) {
    if (a < b) {
        parent[b] = a;
    } else {
        parent[a] = b;
    }
}

inline void unite(uint32_t* parent, uint32_t a, uint32_t b) { link(parent, find(parent, a), find(parent, b)); }

// Replaces every parent by the number of its set, counted in order of the roots. Returns the number of sets.
inline uint32_t number_sets(uint32_t* parent, int64_t count) {
    uint32_t sets = 0;
    for (int64_t i = 0; i < count; ++i) parent[i] = parent[i] == i ? sets++ : parent[parent[i]];
    return sets;
}

}  // namespace fastia
