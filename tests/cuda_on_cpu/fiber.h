// Fibers: functions with stacks of their own that take turns on one thread, and know of AddressSanitizer.
#pragma once
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace cuda_on_cpu {

class Context;

#if defined(__x86_64__) && defined(__ELF__)

// Keeps what the calling convention asks a function to keep on the stack it leaves, and takes up another stack.
extern "C" void cuda_on_cpu_switch(void** from, void* to);
asm(R"(
.text
.globl cuda_on_cpu_switch
.type cuda_on_cpu_switch, @function
cuda_on_cpu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size cuda_on_cpu_switch, .-cuda_on_cpu_switch
)");

// A place in the program that can be left and come back to.
class Context {
  public:
    // `entry` must not return.
    void start(void (*entry)(), unsigned char* stack, size_t size) {
        void** top = reinterpret_cast<void**>(stack + size);
        *--top = nullptr;  // where entry would return to; it keeps the stack aligned too
        *--top = reinterpret_cast<void*>(entry);
        for (int kept = 0; kept < 6; ++kept) *--top = nullptr;
        stack_pointer_ = top;
    }
    static void swap(Context& from, Context& to) { cuda_on_cpu_switch(&from.stack_pointer_, to.stack_pointer_); }

  private:
    void* stack_pointer_ = nullptr;
};

#else
}  // namespace cuda_on_cpu
#include <ucontext.h>
namespace cuda_on_cpu {

class Context {
  public:
    void start(void (*entry)(), unsigned char* stack, size_t size) {
        getcontext(&context_);
        context_.uc_stack.ss_sp = stack;
        context_.uc_stack.ss_size = size;
        context_.uc_link = nullptr;
        makecontext(&context_, entry, 0);
    }
    static void swap(Context& from, Context& to) { swapcontext(&from.context_, &to.context_); }

  private:
    ucontext_t context_;
};

#endif

class Fiber {
  public:
    static constexpr size_t kStackBytes = 256 << 10;  // of address space; memory is what a kernel touches

    Fiber()
        : stack_(static_cast<unsigned char*>(
              mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0))) {
        if (stack_ == MAP_FAILED) {
            std::perror("cuda_on_cpu: no memory for a stack");
            std::abort();
        }
    }
    Fiber(const Fiber&) = delete;
    ~Fiber() { munmap(stack_, kStackBytes); }

    // Lets `entry` begin at the next resume; what ran here before is forgotten.
    void start(void (*entry)()) { context_.start(entry, stack_, kStackBytes); }

    // From outside of fibers: runs this one until it suspends.
    void resume() {
#if defined(__SANITIZE_ADDRESS__)
        void* fake_stack;
        __sanitizer_start_switch_fiber(&fake_stack, stack_, kStackBytes);
        Context::swap(outside(), context_);
        __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#else
        Context::swap(outside(), context_);
#endif
    }

    // From within: back to resume(). With `forever`, no resume follows.
    void suspend([[maybe_unused]] bool forever = false) {
#if defined(__SANITIZE_ADDRESS__)
        __sanitizer_start_switch_fiber(forever ? nullptr : &fake_stack_, outside_stack_, outside_size_);
        Context::swap(context_, outside());
        begun();
#else
        Context::swap(context_, outside());
#endif
    }

    // The first thing that `entry` must call.
    void begun() {
#if defined(__SANITIZE_ADDRESS__)
        __sanitizer_finish_switch_fiber(fake_stack_, &outside_stack_, &outside_size_);
        fake_stack_ = nullptr;
#endif
    }

  private:
    static Context& outside() {
        static Context context;
        return context;
    }

    unsigned char* stack_;
    Context context_;
#if defined(__SANITIZE_ADDRESS__)
    void* fake_stack_ = nullptr;
    const void* outside_stack_ = nullptr;
    size_t outside_size_ = 0;
#endif
};

}  // namespace cuda_on_cpu
