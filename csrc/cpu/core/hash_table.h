// A hash table from integers to sums, for a few keys that come again and again: open addressing over a dense list of
// entries.
#pragma once
#include <cstdint>
#include <vector>

namespace fastia {

struct Empty {};

template <class Value>
class HashTable {
  public:
    // The value of a key, zero when it is new.
    Value& operator[](uint64_t key) { return entries_[index_of(key)].value; }

    // Keys are numbered from 0 in the order in which they came first.
    uint32_t index_of(uint64_t key) {
        if (last_ < entries_.size() && entries_[last_].key == key) return last_;
        if (2 * entries_.size() >= slots_.size()) grow();
        const size_t slot = slot_of(key);
        if (slots_[slot] == 0) {
            entries_.push_back({key, Value()});
            slots_[slot] = static_cast<uint32_t>(entries_.size());
        }
        return last_ = slots_[slot] - 1;
    }

    template <class Visit>
    void for_each(Visit visit) const {
        for (const Entry& entry : entries_) visit(entry.key, entry.value);
    }

  private:
    struct Entry {
        uint64_t key;
        Value value;
    };

    size_t slot_of(uint64_t key) const {
        const uint64_t mixed = (key ^ key >> 32) * 0x9E3779B97F4A7C15u;  // the golden ratio, as in Fibonacci hashing
        const size_t mask = slots_.size() - 1;
        size_t slot = (mixed >> 32) & mask;
        while (slots_[slot] != 0 && entries_[slots_[slot] - 1].key != key) slot = (slot + 1) & mask;
        return slot;
    }

    void grow() {
        slots_.assign(slots_.empty() ? 64 : 2 * slots_.size(), 0);
        for (uint32_t i = 0; i < entries_.size(); ++i) slots_[slot_of(entries_[i].key)] = i + 1;
    }

    std::vector<Entry> entries_;
    std::vector<uint32_t> slots_;  // index of an entry plus 1; 0: free
    uint32_t last_ = 0;
};

}  // namespace fastia
