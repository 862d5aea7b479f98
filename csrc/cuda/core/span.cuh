// Arrays of kernels, in shared or in global memory.
//
// tests/cuda_on_cpu brings a Span of its own, which checks every access; nothing else in this folder knows of it.
#pragma once
#ifndef FASTIA_CUDA_ON_CPU

namespace fastia {

template <class T>
struct Span {
    T* data;

    __device__ Span(T* data_, unsigned long long /*size*/) : data(data_) {}
    template <class Position>
    __device__ T& operator[](Position i) const {
        return data[i];
    }
    // For elements that other threads change meanwhile: a value read may be old, but it was there.
    template <class Position>
    __device__ T load(Position i) const {
        return *const_cast<const volatile T*>(data + i);
    }
    template <class Position>
    __device__ void store(Position i, T value) const {
        *const_cast<volatile T*>(data + i) = value;
    }
};

// `size` elements of the block's shared memory, from byte `offset` on.
template <class T>
__device__ Span<T> shared_span(unsigned offset, unsigned size) {
    extern __shared__ __align__(16) unsigned char shared_memory[];
    return Span<T>(reinterpret_cast<T*>(shared_memory + offset), size);
}

}  // namespace fastia

#endif
