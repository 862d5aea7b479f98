// Choice of the row kernels for the processor at hand.
#include "core/rows.h"

#include <cstdlib>
#include <cstring>

namespace fastia {
namespace {

const RowKernels& choose() {
    const char* wanted = std::getenv("FASTIA_CPU");
    const auto allowed = [&](const RowKernels& kernels) {
        return !wanted || !*wanted || std::strcmp(wanted, kernels.name) == 0;
    };
#if defined(__x86_64__) || defined(_M_X64)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vpopcntdq") &&
                        __builtin_cpu_supports("avx512vbmi2");
    if (avx512 && allowed(kRowsAvx512)) return kRowsAvx512;
    if (avx2 && allowed(kRowsAvx2)) return kRowsAvx2;
#endif
    if (allowed(kRowsBaseline) || std::strcmp(wanted, kRowsScalar.name) != 0) return kRowsBaseline;
    return kRowsScalar;
}

}  // namespace

const RowKernels& row_kernels() {
    static const RowKernels& chosen = choose();
    return chosen;
}

}  // namespace fastia
