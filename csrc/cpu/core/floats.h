// Values of float16, bfloat16, float32 and float64 in memory, read and written as float or double.
#pragma once
#include <cstdint>
#include <cstring>

#include "core/fastia.h"

namespace fastia {

template <class To, class From>
To bit_cast(From from) {
    static_assert(sizeof(To) == sizeof(From), "of one size");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

struct Float16 {
    uint16_t bits;

    explicit operator float() const {
        const uint32_t magnitude = (bits & 0x7FFFu) << 13, sign = (bits & 0x8000u) << 16;
        const float scaled = bit_cast<float>(magnitude) * 0x1p112f;  // exact, also where the half is no normal number
        const uint32_t special = (bits & 0x7C00u) == 0x7C00u ? 0x7F800000u : 0u;
        return bit_cast<float>(bit_cast<uint32_t>(scaled) | special | sign);
    }
    explicit operator double() const { return static_cast<float>(*this); }
    // Rounds to nearest, ties to even.
    static Float16 from(float value) {
        const uint32_t all = bit_cast<uint32_t>(value), sign = all >> 16 & 0x8000u, magnitude = all & 0x7FFFFFFFu;
        uint32_t half;
        if (magnitude > 0x7F800000u) {
            half = 0x7E00u;
        } else if (magnitude >= 0x47800000u) {
            half = 0x7C00u;
        } else if (magnitude < 0x38800000u) {  // no normal half: the sum's last bit is worth 2^-24, as the half's
            half = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3F000000u;
        } else {
            half = (magnitude - 0x38000000u + 0xFFFu + (magnitude >> 13 & 1u)) >> 13;
        }
        return {static_cast<uint16_t>(half | sign)};
    }
};

struct BFloat16 {
    uint16_t bits;

    explicit operator float() const { return bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
    explicit operator double() const { return static_cast<float>(*this); }
    static BFloat16 from(float value) {
        const uint32_t all = bit_cast<uint32_t>(value);
        if ((all & 0x7FFFFFFFu) > 0x7F800000u) return {0x7FC0u};
        return {static_cast<uint16_t>((all + 0x7FFFu + (all >> 16 & 1u)) >> 16)};
    }
};

template <class To>
struct Conversion {
    template <class From>
    static To from(From value) {
        return static_cast<To>(value);
    }
};
template <>
struct Conversion<Float16> : Float16 {};
template <>
struct Conversion<BFloat16> : BFloat16 {};

}  // namespace fastia
