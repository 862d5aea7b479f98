// A plain C interface to launch the kernels of a library by name. Every argument of a kernel has 8 bytes.
#pragma once
#include <map>
#include <utility>

#include "cuda_on_cpu.h"

namespace cuda_on_cpu {

using Caller = std::function<void(void* const*)>;

inline std::map<std::string, Caller>& kernels() {
    static std::map<std::string, Caller> all;
    return all;
}

template <class... Arguments, size_t... kPosition>
void call(void (*kernel)(Arguments...), void* const* arguments, std::index_sequence<kPosition...>) {
    static_assert(((sizeof(Arguments) == 8) && ...), "every argument of a kernel has 8 bytes");
    kernel(*static_cast<Arguments*>(arguments[kPosition])...);
}

template <class... Arguments>
bool add_kernel(const char* name, void (*kernel)(Arguments...)) {
    kernels()[name] = [=](void* const* arguments) {
        call(kernel, arguments, std::make_index_sequence<sizeof...(Arguments)>());
    };
    return true;
}

}  // namespace cuda_on_cpu

#define CUDA_ON_CPU_KERNEL(name) static const bool added_##name = cuda_on_cpu::add_kernel(#name, name);

// Returns whether the kernel ran; else what went wrong is in `error`.
extern "C" int cuda_on_cpu_launch(const char* name, unsigned grid, unsigned block, size_t shared_bytes,
                                  void* const* arguments, uint64_t seed, char* error, size_t error_bytes) {
    using namespace cuda_on_cpu;
    std::string message;
    const auto found = kernels().find(name);
    if (found == kernels().end()) {
        message = "no such kernel";
    } else if (grid == 0 || block == 0 || block % 32 || block > 1024) {
        message = "a launch of " + std::to_string(grid) + " blocks of " + std::to_string(block) + " threads";
    } else {
        const Caller& caller = found->second;
        message = Launch([&caller, arguments] { caller(arguments); }, grid, block, shared_bytes, seed).run();
    }
    std::snprintf(error, error_bytes, "%s", message.c_str());
    return message.empty();
}
