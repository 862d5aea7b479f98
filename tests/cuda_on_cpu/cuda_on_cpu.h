// The part of CUDA that csrc/cuda uses, for a C++ compiler: included before a kernel's source, which stays as it is.
//
// What is missing does not compile. Shared memory is what shared_span() gives, and a Span checks each access.
#pragma once
#include <cmath>

#include "scheduler.h"

#define FASTIA_CUDA_ON_CPU
#define __device__
#define __global__
#define __forceinline__ inline
#define __align__(bytes) alignas(bytes)
#define __launch_bounds__(...)

#define CUDA_ON_CPU_SITE(what) \
    cuda_on_cpu::Site { what, __FILE__, __LINE__ }
#define __syncthreads() cuda_on_cpu::Launch::current().barrier(CUDA_ON_CPU_SITE("__syncthreads"))
#define __syncwarp(lanes) cuda_on_cpu::exchange(lanes, 0, CUDA_ON_CPU_SITE("__syncwarp"))
#define __ballot_sync(lanes, value) cuda_on_cpu::ballot(lanes, value, CUDA_ON_CPU_SITE("__ballot_sync"))
#define __any_sync(lanes, value) (cuda_on_cpu::ballot(lanes, value, CUDA_ON_CPU_SITE("__any_sync")) != 0)
#define __all_sync(lanes, value) (cuda_on_cpu::ballot(lanes, !(value), CUDA_ON_CPU_SITE("__all_sync")) == 0)
#define __match_any_sync(lanes, value) cuda_on_cpu::match_any(lanes, value, CUDA_ON_CPU_SITE("__match_any_sync"))
#define __shfl_sync(lanes, value, source) cuda_on_cpu::shuffle(lanes, value, source, CUDA_ON_CPU_SITE("__shfl_sync"))
#define __shfl_up_sync(lanes, value, step) \
    cuda_on_cpu::shuffle(lanes, value, cuda_on_cpu::lane() - int(step), CUDA_ON_CPU_SITE("__shfl_up_sync"))
#define __shfl_down_sync(lanes, value, step) \
    cuda_on_cpu::shuffle(lanes, value, cuda_on_cpu::lane() + int(step), CUDA_ON_CPU_SITE("__shfl_down_sync"))
#define __shfl_xor_sync(lanes, value, bits) \
    cuda_on_cpu::shuffle(lanes, value, cuda_on_cpu::lane() ^ int(bits), CUDA_ON_CPU_SITE("__shfl_xor_sync"))
#define __reduce_add_sync(lanes, value)                                      \
    cuda_on_cpu::reduce(lanes, value, CUDA_ON_CPU_SITE("__reduce_add_sync"), \
                        [](unsigned a, unsigned b) { return a + b; })
#define __reduce_min_sync(lanes, value)                                      \
    cuda_on_cpu::reduce(lanes, value, CUDA_ON_CPU_SITE("__reduce_min_sync"), \
                        [](unsigned a, unsigned b) { return a < b ? a : b; })
#define __reduce_max_sync(lanes, value)                                      \
    cuda_on_cpu::reduce(lanes, value, CUDA_ON_CPU_SITE("__reduce_max_sync"), \
                        [](unsigned a, unsigned b) { return a > b ? a : b; })

using std::max;
using std::min;

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(unsigned bits) { return __builtin_ffs(static_cast<int>(bits)); }
inline int __clz(unsigned bits) { return bits ? __builtin_clz(bits) : 32; }
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned bits) {
    return static_cast<unsigned>((uint64_t{high} << 32 | low) << bits % 32 >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned bits) {
    return static_cast<unsigned>((uint64_t{high} << 32 | low) >> bits % 32);
}
inline long long __double_as_longlong(double value) {
    long long bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline long long __double2ll_rn(double value) { return static_cast<long long>(std::nearbyint(value)); }
inline double __longlong_as_double(long long bits) {
    double value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
inline void __threadfence() {}  // fibers see each other's writes at once

namespace cuda_on_cpu {

inline int lane() { return static_cast<int>(threadIdx.x % 32); }

inline const uint64_t* exchange(unsigned lanes, uint64_t operand, Site site) {
    return Launch::current().exchange(lanes, operand, site);
}

inline unsigned ballot(unsigned lanes, bool value, Site site) {
    const uint64_t* operands = exchange(lanes, value, site);
    unsigned bits = 0;
    for (unsigned i = 0; i < 32; ++i) bits |= (lanes >> i & 1) && operands[i] ? 1u << i : 0;
    return bits;
}

template <class T>
unsigned match_any(unsigned lanes, T value, Site site) {
    static_assert(std::is_integral_v<T>);
    const uint64_t* operands = exchange(lanes, static_cast<uint64_t>(value), site);
    unsigned bits = 0;
    for (unsigned i = 0; i < 32; ++i)
        bits |= (lanes >> i & 1) && operands[i] == static_cast<uint64_t>(value) ? 1u << i : 0;
    return bits;
}

// From outside the warp: the lane's own value. From a lane that does not take part: an error.
template <class T>
T shuffle(unsigned lanes, T value, int source, Site site) {
    static_assert(sizeof(T) <= sizeof(uint64_t) && std::is_trivially_copyable_v<T>);
    uint64_t operand = 0;
    std::memcpy(&operand, &value, sizeof value);
    const uint64_t* operands = exchange(lanes, operand, site);
    if (source < 0 || source > 31) return value;
    if (!(lanes >> source & 1)) Launch::current().fail(site.text() + " reads a lane that takes no part");
    std::memcpy(&value, &operands[source], sizeof value);
    return value;
}

template <class Combine>
unsigned reduce(unsigned lanes, unsigned value, Site site, Combine combine) {
    const uint64_t* operands = exchange(lanes, value, site);
    unsigned result = value;
    for (unsigned i = 0; i < 32; ++i)
        if ((lanes >> i & 1) && static_cast<int>(i) != lane())
            result = combine(result, static_cast<unsigned>(operands[i]));
    return result;
}

template <class T, class Change>
T atomically(T* target, Change change) {
    Launch::current().maybe_yield();
    const T before = *target;
    *target = change(before);
    return before;
}

template <class T>
struct Same {
    using Type = T;
};

}  // namespace cuda_on_cpu

template <class T>
T atomicAdd(T* target, typename cuda_on_cpu::Same<T>::Type value) {
    return cuda_on_cpu::atomically(target, [=](T before) { return static_cast<T>(before + value); });
}
template <class T>
T atomicMin(T* target, typename cuda_on_cpu::Same<T>::Type value) {
    return cuda_on_cpu::atomically(target, [=](T before) { return std::min(before, value); });
}
template <class T>
T atomicMax(T* target, typename cuda_on_cpu::Same<T>::Type value) {
    return cuda_on_cpu::atomically(target, [=](T before) { return std::max(before, value); });
}
template <class T>
T atomicOr(T* target, typename cuda_on_cpu::Same<T>::Type value) {
    return cuda_on_cpu::atomically(target, [=](T before) { return before | value; });
}
template <class T>
T atomicExch(T* target, typename cuda_on_cpu::Same<T>::Type value) {
    return cuda_on_cpu::atomically(target, [=](T) { return value; });
}
template <class T>
T atomicCAS(T* target, typename cuda_on_cpu::Same<T>::Type expected, typename cuda_on_cpu::Same<T>::Type value) {
    return cuda_on_cpu::atomically(target, [=](T before) { return before == expected ? value : before; });
}

namespace fastia {

// An element of a Span. Another thread may come between any two accesses, the halves of += too.
template <class T>
class Element {
  public:
    Element(T* data, unsigned char* written) : data_(data), written_(written) {}
    operator T() const {
        cuda_on_cpu::Launch::current().maybe_yield();
        if (written_ && std::memchr(written_, 0, sizeof(T)))
            cuda_on_cpu::Launch::current().fail("reads shared memory that nobody wrote");
        return *data_;
    }
    T operator=(T value) const {
        cuda_on_cpu::Launch::current().maybe_yield();
        if (written_) std::memset(written_, 1, sizeof(T));
        return *data_ = value;
    }
    T operator=(const Element& other) const { return *this = static_cast<T>(other); }
    T operator+=(T value) const { return *this = static_cast<T>(static_cast<T>(*this) + value); }
    T operator|=(T value) const { return *this = static_cast<T>(static_cast<T>(*this) | value); }
    // For atomics, which read and write.
    T* operator&() const {
        if (written_ && std::memchr(written_, 0, sizeof(T)))
            cuda_on_cpu::Launch::current().fail("changes shared memory that nobody wrote");
        return data_;
    }

  private:
    T* data_;
    unsigned char* written_;
};

template <class T>
class Span {
  public:
    Span(T* data, unsigned long long size, unsigned char* written = nullptr)
        : data_(data), size_(size), written_(written) {}
    template <class Position>
    Element<T> operator[](Position i) const {
        const auto position = static_cast<unsigned long long>(i);
        if (position >= size_)
            cuda_on_cpu::Launch::current().fail("index " + std::to_string(position) + " is out of bounds of " +
                                                std::to_string(size_) + (written_ ? " in shared memory" : " elements"));
        return {data_ + position, written_ ? written_ + position * sizeof(T) : nullptr};
    }
    template <class Position>
    T load(Position i) const {
        return (*this)[i];
    }
    template <class Position>
    void store(Position i, T value) const {
        (*this)[i] = value;
    }

  private:
    T* data_;
    unsigned long long size_;
    unsigned char* written_;
};

template <class T>
Span<T> shared_span(unsigned offset, unsigned size) {
    cuda_on_cpu::Launch& launch = cuda_on_cpu::Launch::current();
    if (offset % alignof(T) || offset + static_cast<unsigned long long>(size) * sizeof(T) > launch.shared_bytes())
        launch.fail("shared memory of " + std::to_string(launch.shared_bytes()) + " bytes has no room for " +
                    std::to_string(size) + " elements at byte " + std::to_string(offset));
    cuda_on_cpu::Block& block = *launch.thread().block;
    return {reinterpret_cast<T*>(block.shared.get() + offset), size, block.written.get() + offset};
}

}  // namespace fastia
