// What kernels throw, for core/api.h to turn into status codes of the C interface.
#pragma once
#include <cstdint>

namespace fastia {

struct InvalidId {
    int32_t argument;
    int64_t value;
};

struct NegativeWeight {
    int64_t index;  // in [B * H * W]
};

struct TooManyComponents {};

struct UnknownLoss {};

}  // namespace fastia
