// A plain C interface to launch the kernels of a library by name, with arguments whose number and sizes are checked.
#pragma once
#include <map>
#include <utility>

#include "cuda_on_cpu.h"

namespace cuda_on_cpu {

struct Kernel {
    std::vector<size_t> sizes;  // of the arguments, in bytes
    std::function<void(const void* const*)> call;
};

inline std::map<std::string, Kernel>& kernels() {
    static std::map<std::string, Kernel> all;
    return all;
}

template <class... Arguments, size_t... kPosition>
void call(void (*kernel)(Arguments...), [[maybe_unused]] const void* const* arguments,
          std::index_sequence<kPosition...>) {
    kernel(*static_cast<const Arguments*>(arguments[kPosition])...);
}

template <class... Arguments>
bool add_kernel(const char* name, void (*kernel)(Arguments...)) {
    kernels()[name] = {{sizeof(Arguments)...}, [=](const void* const* arguments) {
                           call(kernel, arguments, std::make_index_sequence<sizeof...(Arguments)>());
                       }};
    return true;
}

// How the arguments of a launch differ from those of the kernel, or nothing.
inline std::string mismatch(const Kernel& kernel, const size_t* sizes, size_t count) {
    const size_t expected = kernel.sizes.size();
    if (count != expected) return "got " + std::to_string(count) + " arguments, expected " + std::to_string(expected);
    for (size_t i = 0; i < count; ++i) {
        if (sizes[i] != kernel.sizes[i])
            return "argument " + std::to_string(i + 1) + ": got " + std::to_string(sizes[i]) + " bytes, expected " +
                   std::to_string(kernel.sizes[i]);
    }
    return "";
}

}  // namespace cuda_on_cpu

#define CUDA_ON_CPU_KERNEL(name) static const bool added_##name = cuda_on_cpu::add_kernel(#name, name);

// Returns whether the kernel ran; else what went wrong is in `error`.
extern "C" int cuda_on_cpu_launch(const char* name, unsigned grid, unsigned block, size_t shared_bytes,
                                  const void* const* arguments, const size_t* sizes, size_t count, uint64_t seed,
                                  char* error, size_t error_bytes) {
    using namespace cuda_on_cpu;
    std::string message;
    const auto found = kernels().find(name);
    if (found == kernels().end()) {
        message = "no such kernel";
    } else if (grid == 0 || block == 0 || block % 32 || block > 1024) {
        message = "a launch of " + std::to_string(grid) + " blocks of " + std::to_string(block) + " threads";
    } else {
        const Kernel& kernel = found->second;
        message = mismatch(kernel, sizes, count);
        if (message.empty())
            message = Launch([&kernel, arguments] { kernel.call(arguments); }, grid, block, shared_bytes, seed).run();
    }
    std::snprintf(error, error_bytes, "%s", message.c_str());
    return message.empty();
}
