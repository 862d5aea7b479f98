// The vector operations of the row kernels for the instruction set this file is compiled for: 64 pixels make one 64-bit
// mask.
#pragma once
#include <cstdint>
#include <cstring>

#include "core/rows.h"

#if defined(FASTIA_SCALAR)
#elif defined(__AVX512BW__) && defined(__AVX512VPOPCNTDQ__)
#define FASTIA_SIMD_AVX512
#include <immintrin.h>
#elif defined(__AVX2__)
#define FASTIA_SIMD_AVX2
#include <immintrin.h>
#elif defined(__SSE2__)
#define FASTIA_SIMD_SSE2
#include <emmintrin.h>
#elif defined(__ARM_NEON) && defined(__aarch64__)
#define FASTIA_SIMD_NEON
#include <arm_neon.h>
#endif

namespace fastia {
namespace {
namespace simd {

#if defined(FASTIA_SIMD_AVX512)

inline __m512i load(const void* p) { return _mm512_loadu_si512(p); }

inline uint64_t equal(const uint8_t* a, const uint8_t* b) { return _mm512_cmpeq_epi8_mask(load(a), load(b)); }
inline uint64_t equal_to(const uint8_t* a, uint8_t id) {
    return _mm512_cmpeq_epi8_mask(load(a), _mm512_set1_epi8(static_cast<char>(id)));
}
inline uint64_t at_least(const uint8_t* a, uint8_t id) {
    return _mm512_cmpge_epu8_mask(load(a), _mm512_set1_epi8(static_cast<char>(id)));
}

// Joined as masks: GCC 12 may spill a 16-bit mask and read back more than it wrote.
template <class Compare>
inline uint64_t four(Compare compare) {
    return _mm512_kunpackd(_mm512_kunpackw(compare(48), compare(32)), _mm512_kunpackw(compare(16), compare(0)));
}
inline uint64_t equal(const int32_t* a, const int32_t* b) {
    return four([=](int x) { return _mm512_cmpeq_epi32_mask(load(a + x), load(b + x)); });
}
inline uint64_t equal_to(const int32_t* a, int32_t id) {
    return four([=](int x) { return _mm512_cmpeq_epi32_mask(load(a + x), _mm512_set1_epi32(id)); });
}
inline uint64_t at_least(const int32_t* a, int32_t id) {
    return four([=](int x) { return _mm512_cmpge_epi32_mask(load(a + x), _mm512_set1_epi32(id)); });
}

#elif defined(FASTIA_SIMD_AVX2)

inline __m256i load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline uint64_t bytes(__m256i low, __m256i high) {
    return static_cast<uint32_t>(_mm256_movemask_epi8(low)) |
           static_cast<uint64_t>(static_cast<uint32_t>(_mm256_movemask_epi8(high))) << 32;
}

inline uint64_t equal(const uint8_t* a, const uint8_t* b) {
    return bytes(_mm256_cmpeq_epi8(load(a), load(b)), _mm256_cmpeq_epi8(load(a + 32), load(b + 32)));
}
inline uint64_t equal_to(const uint8_t* a, uint8_t id) {
    const __m256i wanted = _mm256_set1_epi8(static_cast<char>(id));
    return bytes(_mm256_cmpeq_epi8(load(a), wanted), _mm256_cmpeq_epi8(load(a + 32), wanted));
}
inline uint64_t at_least(const uint8_t* a, uint8_t id) {
    const __m256i bound = _mm256_set1_epi8(static_cast<char>(id));
    const __m256i low = load(a), high = load(a + 32);
    return bytes(_mm256_cmpeq_epi8(_mm256_max_epu8(low, bound), low),
                 _mm256_cmpeq_epi8(_mm256_max_epu8(high, bound), high));
}

template <class Compare>
inline uint64_t eight(Compare compare) {
    uint64_t bits = 0;
    for (int x = 0; x < 64; x += 8)
        bits |= static_cast<uint64_t>(static_cast<uint8_t>(_mm256_movemask_ps(_mm256_castsi256_ps(compare(x))))) << x;
    return bits;
}
inline uint64_t equal(const int32_t* a, const int32_t* b) {
    return eight([=](int x) { return _mm256_cmpeq_epi32(load(a + x), load(b + x)); });
}
inline uint64_t equal_to(const int32_t* a, int32_t id) {
    return eight([=](int x) { return _mm256_cmpeq_epi32(load(a + x), _mm256_set1_epi32(id)); });
}
inline uint64_t at_least(const int32_t* a, int32_t id) {
    return eight([=](int x) { return _mm256_cmpgt_epi32(load(a + x), _mm256_set1_epi32(id - 1)); });
}

#elif defined(FASTIA_SIMD_SSE2)

inline __m128i load(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }

template <class Compare>
inline uint64_t sixteens(Compare compare) {
    uint64_t bits = 0;
    for (int x = 0; x < 64; x += 16)
        bits |= static_cast<uint64_t>(static_cast<uint32_t>(_mm_movemask_epi8(compare(x)))) << x;
    return bits;
}
inline uint64_t equal(const uint8_t* a, const uint8_t* b) {
    return sixteens([=](int x) { return _mm_cmpeq_epi8(load(a + x), load(b + x)); });
}
inline uint64_t equal_to(const uint8_t* a, uint8_t id) {
    return sixteens([=](int x) { return _mm_cmpeq_epi8(load(a + x), _mm_set1_epi8(static_cast<char>(id))); });
}
inline uint64_t at_least(const uint8_t* a, uint8_t id) {
    return sixteens([=](int x) {
        return _mm_cmpeq_epi8(_mm_max_epu8(load(a + x), _mm_set1_epi8(static_cast<char>(id))), load(a + x));
    });
}

template <class Compare>
inline uint64_t fours(Compare compare) {
    uint64_t bits = 0;
    for (int x = 0; x < 64; x += 4)
        bits |= static_cast<uint64_t>(static_cast<uint32_t>(_mm_movemask_ps(_mm_castsi128_ps(compare(x))))) << x;
    return bits;
}
inline uint64_t equal(const int32_t* a, const int32_t* b) {
    return fours([=](int x) { return _mm_cmpeq_epi32(load(a + x), load(b + x)); });
}
inline uint64_t equal_to(const int32_t* a, int32_t id) {
    return fours([=](int x) { return _mm_cmpeq_epi32(load(a + x), _mm_set1_epi32(id)); });
}
inline uint64_t at_least(const int32_t* a, int32_t id) {
    return fours([=](int x) { return _mm_cmpgt_epi32(load(a + x), _mm_set1_epi32(id - 1)); });
}

#elif defined(FASTIA_SIMD_NEON)

// One bit per byte of four vectors of zeros and ones: weighted by position, then added pairwise.
inline uint64_t bytes(uint8x16_t a, uint8x16_t b, uint8x16_t c, uint8x16_t d) {
    const uint8x16_t weight = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    const uint8x16_t low = vpaddq_u8(vandq_u8(a, weight), vandq_u8(b, weight)),
                     high = vpaddq_u8(vandq_u8(c, weight), vandq_u8(d, weight));
    const uint8x16_t pairs = vpaddq_u8(low, high);
    return vgetq_lane_u64(vreinterpretq_u64_u8(vpaddq_u8(pairs, pairs)), 0);
}
template <class Compare>
inline uint64_t sixteens(Compare compare) {
    return bytes(compare(0), compare(16), compare(32), compare(48));
}
inline uint64_t equal(const uint8_t* a, const uint8_t* b) {
    return sixteens([=](int x) { return vceqq_u8(vld1q_u8(a + x), vld1q_u8(b + x)); });
}
inline uint64_t equal_to(const uint8_t* a, uint8_t id) {
    return sixteens([=](int x) { return vceqq_u8(vld1q_u8(a + x), vdupq_n_u8(id)); });
}
inline uint64_t at_least(const uint8_t* a, uint8_t id) {
    return sixteens([=](int x) { return vcgeq_u8(vld1q_u8(a + x), vdupq_n_u8(id)); });
}

// Sixteen comparisons of 32-bit ids, narrowed to bytes.
template <class Compare>
inline uint64_t narrowed(Compare compare) {
    return sixteens([=](int x) {
        const uint16x8_t low = vcombine_u16(vmovn_u32(compare(x)), vmovn_u32(compare(x + 4)));
        const uint16x8_t high = vcombine_u16(vmovn_u32(compare(x + 8)), vmovn_u32(compare(x + 12)));
        return vcombine_u8(vmovn_u16(low), vmovn_u16(high));
    });
}
inline uint64_t equal(const int32_t* a, const int32_t* b) {
    return narrowed([=](int x) { return vceqq_s32(vld1q_s32(a + x), vld1q_s32(b + x)); });
}
inline uint64_t equal_to(const int32_t* a, int32_t id) {
    return narrowed([=](int x) { return vceqq_s32(vld1q_s32(a + x), vdupq_n_s32(id)); });
}
inline uint64_t at_least(const int32_t* a, int32_t id) {
    return narrowed([=](int x) { return vcgeq_s32(vld1q_s32(a + x), vdupq_n_s32(id)); });
}

#else

template <class Test>
inline uint64_t each(Test test) {
    uint64_t bits = 0;
    for (int x = 0; x < 64; ++x) bits |= static_cast<uint64_t>(test(x)) << x;
    return bits;
}
template <class Id>
inline uint64_t equal(const Id* a, const Id* b) {
    return each([=](int x) { return a[x] == b[x]; });
}
template <class Id>
inline uint64_t equal_to(const Id* a, Id id) {
    return each([=](int x) { return a[x] == id; });
}
template <class Id>
inline uint64_t at_least(const Id* a, Id id) {
    return each([=](int x) { return a[x] >= id; });
}

#endif

inline int popcount(uint64_t bits) { return __builtin_popcountll(bits); }
// Defined for 0 too, where the answer is not used.
inline int lowest(uint64_t bits) { return __builtin_ctzll(bits | (uint64_t{1} << 63)); }
inline uint64_t up_to(int bit) { return ~uint64_t{0} >> (63 - bit); }

#if defined(FASTIA_SIMD_AVX512)

// The positions of the set bits, one byte each.
inline __m512i compress_lanes(uint64_t bits) {
    alignas(64) static constexpr uint8_t kLanes[64] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
                                                       16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31,
                                                       32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47,
                                                       48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63};
    return _mm512_maskz_compress_epi8(bits, _mm512_load_si512(kLanes));
}

// Writes sixteen per step and lets the tail overrun (kListPadding): a branch on the count would mispredict.
inline uint32_t append_positions(uint64_t bits, uint32_t base, uint32_t* out) {
    const uint32_t count = popcount(bits);
    const __m512i found = compress_lanes(bits), first = _mm512_set1_epi32(static_cast<int>(base));
    const auto store = [&](int from, __m128i bytes) {
        _mm512_storeu_si512(out + from, _mm512_add_epi32(first, _mm512_cvtepu8_epi32(bytes)));
    };
    store(0, _mm512_castsi512_si128(found));
    if (__builtin_expect(count > 16, 0)) {
        store(16, _mm512_extracti32x4_epi32(found, 1));
        store(32, _mm512_extracti32x4_epi32(found, 2));
        store(48, _mm512_extracti32x4_epi32(found, 3));
    }
    return count;
}

// The parents of the runs that start at `edges`: their own index, or the component that stands for background, or none.
inline void append_parents(uint64_t edges, uint64_t taking_part, uint64_t background, uint32_t run, uint32_t* out) {
    const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    uint64_t own = _pext_u64(taking_part, edges), behind = _pext_u64(background, edges);
    const int count = popcount(edges);
    int k = 0;
    do {
        const __m512i other = _mm512_maskz_set1_epi32(static_cast<__mmask16>(behind), kBackgroundComponent);
        const __m512i index = _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(run) + k), lanes);
        _mm512_storeu_si512(out + k, _mm512_mask_mov_epi32(other, static_cast<__mmask16>(own), index));
        own >>= 16;
        behind >>= 16;
        k += 16;
    } while (__builtin_expect(k < count, 0));
}

#else

// Writes four per step and lets the tail overrun (kListPadding): a branch on the count would mispredict.
inline uint32_t append_positions(uint64_t bits, uint32_t base, uint32_t* out) {
    const uint32_t count = popcount(bits);
    for (uint32_t k = 0; k < count; k += 4) {
        for (int j = 0; j < 4; ++j) {
            out[k + j] = base + lowest(bits);
            bits &= bits - 1;
        }
    }
    return count;
}

inline void append_parents(uint64_t edges, uint64_t taking_part, uint64_t background, uint32_t run, uint32_t* out) {
    for (; edges; edges &= edges - 1) {
        const int x = lowest(edges);
        const uint32_t own = static_cast<uint32_t>(taking_part >> x & 1),
                       other = static_cast<uint32_t>(background >> x & 1);
        *out++ = own ? run : other * kBackgroundComponent;  // kNoComponent is 0
        ++run;
    }
}

#endif

// Appends the pairs of one word, from left to right. `starts_touching`: bits where an overlap of two equal runs begins;
// `left`, `right`: bits where a run touches the run above only across its left or right corner.
inline uint32_t append_pairs(uint64_t starts_touching, uint64_t left, uint64_t right, uint64_t edges,
                             uint64_t edges_above, uint32_t run, uint32_t run_above, RunPair* out) {
    uint64_t events = starts_touching | left | right;
    const uint64_t both = left & right;
    uint32_t count = 0;
    if (__builtin_expect(both != 0, 0)) {
        for (; events; events &= events - 1) {
            const int x = lowest(events);
            const uint32_t lower = run + popcount(edges & up_to(x)) - 1,
                           upper = run_above + popcount(edges_above & up_to(x)) - 1;
            if (left >> x & 1) out[count++] = {upper - 1, lower};
            if (right >> x & 1) out[count++] = {upper + 1, lower};
            if (starts_touching >> x & 1) out[count++] = {upper, lower};
        }
        return count;
    }
#if defined(FASTIA_SIMD_AVX512)
    // A pair is 64 bits, the upper run below the lower one; eight at a time, one time nearly always.
    count = popcount(events);
    const auto splat = [](uint64_t value) { return _mm512_set1_epi64(static_cast<int64_t>(value)); };
    const __m512i one = splat(1);
    __m512i bits = compress_lanes(events);
    uint32_t k = 0;
    do {
        const __m512i x = _mm512_cvtepu8_epi64(_mm512_castsi512_si128(bits));
        const __m512i up_to_x = _mm512_srlv_epi64(splat(~uint64_t{0}), _mm512_sub_epi64(splat(63), x));
        const __m512i lower = _mm512_popcnt_epi64(_mm512_and_si512(splat(edges), up_to_x));
        const __m512i upper = _mm512_popcnt_epi64(_mm512_and_si512(splat(edges_above), up_to_x));
        const __m512i to_right = _mm512_and_si512(_mm512_srlv_epi64(splat(right), x), one);
        const __m512i to_left = _mm512_and_si512(_mm512_srlv_epi64(splat(left), x), one);
        const __m512i shifted = _mm512_add_epi64(upper, _mm512_sub_epi64(to_right, to_left));
        // Counts start at one. The upper half cannot overflow: run_above and shifted are the index of a run, plus one.
        const __m512i pair = _mm512_add_epi64(_mm512_slli_epi64(lower, 32), shifted);
        const uint64_t first = (static_cast<uint64_t>(run) << 32) + run_above - 1 - (uint64_t{1} << 32);
        _mm512_storeu_si512(out + k, _mm512_add_epi64(pair, splat(first)));
        k += 8;
        bits = _mm512_alignr_epi64(bits, bits, 1);
    } while (__builtin_expect(k < count, 0));
#else
    count = popcount(events);
    for (uint32_t k = 0; k < count; k += 2) {
        for (int j = 0; j < 2; ++j) {
            const int x = lowest(events);
            const uint32_t shift = static_cast<uint32_t>(right >> x & 1) - static_cast<uint32_t>(left >> x & 1);
            out[k + j] = {run_above + popcount(edges_above & up_to(x)) - 1 + shift,
                          run + popcount(edges & up_to(x)) - 1};
            events &= events - 1;
        }
    }
#endif
    return count;
}

// No standard templates here: the linker could keep this file's instantiation of one for callers on lesser processors.
template <class Value>
void expand_runs(const uint64_t* edges, int64_t width, const Value* values, Value* out) {
    const Value* value = values - 1;
    int64_t x = 0;
    const auto fill_to = [&](int64_t end) {
        while (x < end) out[x++] = *value;
    };
    for (int64_t w = 0; w < words_of(width); ++w) {
        for (uint64_t bits = edges[w]; bits; bits &= bits - 1) {
            fill_to(64 * w + __builtin_ctzll(bits));
            ++value;
        }
    }
    fill_to(width);
}

inline void expand2(const uint64_t* edges, int64_t width, const uint16_t* values, uint16_t* out) {
    expand_runs(edges, width, values, out);
}

#if defined(FASTIA_SIMD_AVX512)

// Per vector of pixels: index of the run of each = prefix popcount of the edges, values by one permutation. No branch
// on the data.
inline void expand4(const uint64_t* edges, int64_t width, const uint32_t* values, uint32_t* out) {
    const __m512i up_to_lane = _mm512_set_epi32(0xFFFE, 0x7FFE, 0x3FFE, 0x1FFE, 0xFFE, 0x7FE, 0x3FE, 0x1FE, 0xFE, 0x7E,
                                                0x3E, 0x1E, 0xE, 6, 2, 0);
    const uint32_t* run = values - 1;  // of the pixel before the vector
    for (int64_t x = 0; x < width; x += 16) {
        const uint32_t bits = static_cast<uint32_t>(edges[x / 64] >> (x % 64)) & 0xFFFF;
        const __m512i index =
            _mm512_popcnt_epi32(_mm512_and_si512(_mm512_set1_epi32(static_cast<int>(bits)), up_to_lane));
        const __m512i filled = _mm512_maskz_permutexvar_epi32(0xFFFF, index, _mm512_loadu_si512(run + (bits & 1)));
        const int64_t rest = width - x;
        _mm512_mask_storeu_epi32(out + x, rest >= 16 ? 0xFFFF : static_cast<__mmask16>((1u << rest) - 1), filled);
        run += __builtin_popcount(bits);
    }
}
inline void expand8(const uint64_t* edges, int64_t width, const uint64_t* values, uint64_t* out) {
    const __m512i up_to_lane = _mm512_set_epi64(0xFE, 0x7E, 0x3E, 0x1E, 0xE, 6, 2, 0);
    const uint64_t* run = values - 1;
    for (int64_t x = 0; x < width; x += 8) {
        const uint32_t bits = static_cast<uint32_t>(edges[x / 64] >> (x % 64)) & 0xFF;
        const __m512i index = _mm512_popcnt_epi64(_mm512_and_si512(_mm512_set1_epi64(bits), up_to_lane));
        const __m512i filled = _mm512_maskz_permutexvar_epi64(0xFF, index, _mm512_loadu_si512(run + (bits & 1)));
        const int64_t rest = width - x;
        _mm512_mask_storeu_epi64(out + x, rest >= 8 ? 0xFF : static_cast<__mmask8>((1u << rest) - 1), filled);
        run += __builtin_popcount(bits);
    }
}

#elif defined(FASTIA_SIMD_AVX2)

// For each byte of edges: how many runs start in lanes 1..lane, one byte a lane.
struct PrefixCounts {
    alignas(64) uint64_t lanes[256];
    constexpr PrefixCounts() : lanes() {
        for (int bits = 0; bits < 256; ++bits) {
            uint64_t count = 0, packed = 0;
            for (int lane = 0; lane < 8; ++lane) {
                if (lane > 0) count += bits >> lane & 1;
                packed |= count << (8 * lane);
            }
            lanes[bits] = packed;
        }
    }
};
constexpr PrefixCounts kPrefixCounts;

inline void expand4(const uint64_t* edges, int64_t width, const uint32_t* values, uint32_t* out) {
    const uint32_t* run = values - 1;
    for (int64_t x = 0; x < width; x += 8) {
        const uint32_t bits = static_cast<uint32_t>(edges[x / 64] >> (x % 64)) & 0xFF;
        const __m256i index = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(kPrefixCounts.lanes[bits])));
        const __m256i filled = _mm256_permutevar8x32_epi32(load(run + (bits & 1)), index);
        if (width - x >= 8) {
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + x), filled);
        } else {
            alignas(32) uint32_t lanes[8];
            _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), filled);
            std::memcpy(out + x, lanes, (width - x) * sizeof(uint32_t));
        }
        run += __builtin_popcount(bits);
    }
}
inline void expand8(const uint64_t* edges, int64_t width, const uint64_t* values, uint64_t* out) {
    expand_runs(edges, width, values, out);
}

#else

inline void expand4(const uint64_t* edges, int64_t width, const uint32_t* values, uint32_t* out) {
    expand_runs(edges, width, values, out);
}
inline void expand8(const uint64_t* edges, int64_t width, const uint64_t* values, uint64_t* out) {
    expand_runs(edges, width, values, out);
}

#endif

}  // namespace simd
}  // namespace
}  // namespace fastia
