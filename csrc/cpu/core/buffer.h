// A growable array that neither initialises nor touches what is not written, so that a generous capacity costs no
// memory.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <type_traits>
#include <utility>

namespace fastia {

template <class T>
class Buffer {
    static_assert(std::is_trivially_copyable<T>::value, "moved by realloc");

  public:
    Buffer() = default;
    Buffer(Buffer&& other) noexcept
        : data_(std::exchange(other.data_, nullptr)), capacity_(std::exchange(other.capacity_, 0)) {}
    Buffer& operator=(Buffer&& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(capacity_, other.capacity_);
        return *this;
    }
    ~Buffer() { std::free(data_); }

    // Room for `count` values; what was written stays.
    T* reserve(int64_t count) {
        if (count > capacity_) {
            const int64_t grown = count + (capacity_ ? count / 2 : 0);
            void* moved = std::realloc(static_cast<void*>(data_), static_cast<size_t>(grown) * sizeof(T));
            if (!moved) throw std::bad_alloc();
            data_ = static_cast<T*>(moved);
            capacity_ = grown;
        }
        return data_;
    }
    T* fill(int64_t count, T value) {
        reserve(count);
        for (int64_t i = 0; i < count; ++i) data_[i] = value;
        return data_;
    }
    void release() { *this = Buffer(); }

    int64_t bytes() const { return capacity_ * static_cast<int64_t>(sizeof(T)); }
    T* data() { return data_; }
    const T* data() const { return data_; }
    T& operator[](int64_t i) { return data_[i]; }
    const T& operator[](int64_t i) const { return data_[i]; }

  private:
    T* data_ = nullptr;
    int64_t capacity_ = 0;
};

}  // namespace fastia
