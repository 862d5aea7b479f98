// Vectors of the widest registers this file is compiled for, with exponential, logarithm and transposition.
//
// Arithmetic is that of the compiler's vector extension. Multiply-adds are fused where the processor can and where it
// is written: the forward and the backward pass have to round alike. Rounding differs between instruction sets.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace fastia {
namespace {

#if defined(__AVX512F__)
#define FASTIA_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define FASTIA_VECTOR_BYTES 32
#else
#define FASTIA_VECTOR_BYTES 16
#endif
#define FASTIA_INLINE inline __attribute__((always_inline))

template <class T>
struct Vectors;
template <>
struct Vectors<float> {
    typedef float V __attribute__((vector_size(FASTIA_VECTOR_BYTES)));
    typedef int32_t I __attribute__((vector_size(FASTIA_VECTOR_BYTES)));
};
template <>
struct Vectors<double> {
    typedef double V __attribute__((vector_size(FASTIA_VECTOR_BYTES)));
    typedef int64_t I __attribute__((vector_size(FASTIA_VECTOR_BYTES)));
};
template <class T>
using Vector = typename Vectors<T>::V;
template <class T>
using Integers = typename Vectors<T>::I;
template <class T>
constexpr int kLanes = FASTIA_VECTOR_BYTES / sizeof(T);

template <class T>
FASTIA_INLINE Vector<T> load(const T* p) {
    Vector<T> v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}
template <class T>
FASTIA_INLINE void store(T* p, Vector<T> v) {
    __builtin_memcpy(p, &v, sizeof v);
}
template <class T>
FASTIA_INLINE Vector<T> splat(T value) {
    return value - Vector<T>{};
}
template <class T>
FASTIA_INLINE Integers<T> bits_of(Vector<T> v) {
    return (Integers<T>)v;
}
// As many lanes of int32 values, widened where T is wider.
FASTIA_INLINE Integers<float> load_ids(const int32_t* p, float) {
    Integers<float> v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}
FASTIA_INLINE Integers<double> load_ids(const int32_t* p, double) {
    Integers<double> v{};
    for (int i = 0; i < kLanes<double>; ++i) v[i] = p[i];
    return v;
}

// a * b + c
FASTIA_INLINE Vector<float> fused(Vector<float> a, Vector<float> b, Vector<float> c) {
#if defined(__AVX512F__)
    return (Vector<float>)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
    return (Vector<float>)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
    return (Vector<float>)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}
FASTIA_INLINE Vector<double> fused(Vector<double> a, Vector<double> b, Vector<double> c) { return a * b + c; }
template <class V>
FASTIA_INLINE V fused(V a, decltype(a[0] + a[0]) b, V c) {
    return fused(a, b - V{}, c);
}
template <class V>
FASTIA_INLINE V fused(V a, decltype(a[0] + a[0]) b, decltype(a[0] + a[0]) c) {
    return fused(a, b - V{}, c - V{});
}
template <class V>
FASTIA_INLINE V fused(V a, V b, decltype(a[0] + a[0]) c) {
    return fused(a, b, c - V{});
}

// The larger one of two; `b` where it is NaN.
FASTIA_INLINE Vector<float> maximum(Vector<float> a, Vector<float> b) {
#if defined(__AVX512F__)
    return (Vector<float>)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (Vector<float>)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return a > b ? a : b;
#endif
}
FASTIA_INLINE Vector<double> maximum(Vector<double> a, Vector<double> b) { return a > b ? a : b; }

// Whether a lane is below the bound, or NaN.
FASTIA_INLINE bool any_below(Vector<float> v, float bound) {
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask((__m512)v, _mm512_set1_ps(bound), _CMP_NGE_UQ) != 0;
#elif defined(__AVX2__)
    return _mm256_movemask_ps(_mm256_cmp_ps((__m256)v, _mm256_set1_ps(bound), _CMP_NGE_UQ)) != 0;
#else
    bool any = false;
    for (int i = 0; i < kLanes<float>; ++i) any |= !(v[i] >= bound);
    return any;
#endif
}
FASTIA_INLINE bool any_below(Vector<double> v, double bound) {
    bool any = false;
    for (int i = 0; i < kLanes<double>; ++i) any |= !(v[i] >= bound);
    return any;
}

// base[index] of each lane.
FASTIA_INLINE Vector<float> gather(const float* base, Integers<float> index) {
#if defined(__AVX512F__)
    return (Vector<float>)_mm512_mask_i32gather_ps(_mm512_setzero_ps(), 0xFFFF, (__m512i)index, base, 4);
#elif defined(__AVX2__)
    return (Vector<float>)_mm256_i32gather_ps(base, (__m256i)index, 4);
#else
    Vector<float> v{};
    for (int i = 0; i < kLanes<float>; ++i) v[i] = base[index[i]];
    return v;
#endif
}
FASTIA_INLINE Vector<double> gather(const double* base, Integers<double> index) {
    Vector<double> v{};
    for (int i = 0; i < kLanes<double>; ++i) v[i] = base[index[i]];
    return v;
}
// The same of a base that is in a register already: indices lie in 0..lanes-1.
FASTIA_INLINE Vector<float> permute(Vector<float> base, Integers<float> index) {
#if defined(__AVX512F__)
    return (Vector<float>)_mm512_maskz_permutexvar_ps(0xFFFF, (__m512i)index, (__m512)base);
#elif defined(__AVX2__)
    return (Vector<float>)_mm256_permutevar8x32_ps((__m256)base, (__m256i)index);
#else
    Vector<float> v{};
    for (int i = 0; i < kLanes<float>; ++i) v[i] = base[index[i]];
    return v;
#endif
}
FASTIA_INLINE Vector<double> permute(Vector<double> base, Integers<double> index) {
    Vector<double> v{};
    for (int i = 0; i < kLanes<double>; ++i) v[i] = base[index[i]];
    return v;
}

// e^x for x <= 0 to about 1 ulp; below e^-87.3 a value that counts as 0, NaN for NaN.
FASTIA_INLINE Vector<float> exp_nonpositive(Vector<float> x) {
    x = maximum(splat(-88.0f), x);
    const Vector<float> shifted = fused(x, 1.44269504f, 12582912.0f);  // 1.5 * 2^23: the integer is in the lowest bits
    const Vector<float> n = shifted - 12582912.0f;
    Vector<float> r = fused(n, -0.693359375f, x);
    r = fused(n, 2.12194440e-4f, r);
    // The polynomial of degree 6 with the least relative error on |r| <= ln(2) / 2, 3e-9.
    Vector<float> p = fused(r, 0.0013814320554956794f, 0.00836885068565607f);
    p = fused(p, r, 0.041668400168418884f);
    p = fused(p, r, 0.1666651964187622f);
    p = fused(p, r, 0.4999999403953552f);
    p = fused(p, r, 1.0f);
    p = fused(p, r, 1.0f);
    return (Vector<float>)(bits_of<float>(p) + (bits_of<float>(shifted) << 23));
}
FASTIA_INLINE Vector<double> exp_nonpositive(Vector<double> x) {
    for (int i = 0; i < kLanes<double>; ++i) x[i] = __builtin_exp(x[i]);
    return x;
}

// ln(x) for normal x > 0 to about 1 ulp, after Cephes; NaN for NaN and infinity.
FASTIA_INLINE Vector<float> log_positive(Vector<float> x) {
    const Integers<float> bits = bits_of<float>(x);
    const Integers<float> exponent = (bits - 0x3F3504F3) >> 23;  // of x / sqrt(1/2)
    const Vector<float> f = (Vector<float>)(bits - (exponent << 23)) - 1.0f;
    const Vector<float> e = __builtin_convertvector(exponent, Vector<float>);
    const Vector<float> z = f * f;
    Vector<float> p = fused(f, 7.0376836292e-2f, -1.1514610310e-1f);
    p = fused(p, f, 1.1676998740e-1f);
    p = fused(p, f, -1.2420140846e-1f);
    p = fused(p, f, 1.4249322787e-1f);
    p = fused(p, f, -1.6668057665e-1f);
    p = fused(p, f, 2.0000714765e-1f);
    p = fused(p, f, -2.4999993993e-1f);
    p = fused(p, f, 3.3333331174e-1f);
    p = p * f * z - e * 2.12194440e-4f - z * 0.5f;
    return f + p + e * 0.693359375f + (x - x);
}
FASTIA_INLINE Vector<double> log_positive(Vector<double> x) {
    for (int i = 0; i < kLanes<double>; ++i) x[i] = __builtin_log(x[i]);
    return x;
}

// rows[i] = column i of a block of lanes x lanes values.
template <class T>
FASTIA_INLINE void transpose(const T* block, Vector<T>* rows) {
    constexpr int L = kLanes<T>;
    for (int i = 0; i < L; ++i) {
        Vector<T> row{};
        for (int j = 0; j < L; ++j) row[j] = block[j * L + i];
        rows[i] = row;
    }
}
#if defined(__AVX512F__)
// Exchanges blocks of half the size across the diagonal, four times.
template <>
FASTIA_INLINE void transpose<float>(const float* block, Vector<float>* rows) {
    __m512 v[16];
    for (int i = 0; i < 16; ++i) v[i] = _mm512_loadu_ps(block + 16 * i);
    const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const auto exchange = [&](int size) {
        const __m512i bit = _mm512_set1_epi32(size);
        const __mmask16 high = _mm512_test_epi32_mask(lane, bit);
        const __m512i partner = _mm512_xor_si512(lane, bit), second = _mm512_set1_epi32(16);
        const __m512i upper = _mm512_mask_add_epi32(lane, high, partner, second);
        const __m512i lower = _mm512_mask_blend_epi32(high, partner, _mm512_add_epi32(lane, second));
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) {
            if (i & size) continue;
            const __m512 a = v[i], b = v[i + size];
            v[i] = _mm512_permutex2var_ps(a, upper, b);
            v[i + size] = _mm512_permutex2var_ps(a, lower, b);
        }
    };
    exchange(8);
    exchange(4);
    exchange(2);
    exchange(1);
    for (int i = 0; i < 16; ++i) rows[i] = (Vector<float>)v[i];
}
#endif

// Numbers too small to be normal are 0 while this lives: they cost a hundred times as much, and no result depends on
// them.
class FlushDenormals {
#if defined(__SSE2__)
  public:
    FlushDenormals() { _mm_setcsr(before_ | 0x8040); }
    ~FlushDenormals() { _mm_setcsr(before_); }

  private:
    unsigned before_ = _mm_getcsr();
#else
  public:
    FlushDenormals() {}
    ~FlushDenormals() {}
#endif
};

}  // namespace
}  // namespace fastia
