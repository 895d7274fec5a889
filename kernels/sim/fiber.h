// Fibers: a stack each and a hand-made switch of six registers (x86-64 System V); ucontext costs a system call a switch, 20 times as much.
#pragma once

// Included by scheduler.cpp alone: it defines the switch.

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#if !defined(__x86_64__)
#error "the simulator's context switch is written for x86-64"
#endif

extern "C" void sim_switch(void** save_stack_pointer, void* load_stack_pointer);
asm(R"(
.text
.globl sim_switch
.type sim_switch, @function
sim_switch:
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
.size sim_switch, .-sim_switch
)");

namespace sim {

#if defined(SIM_ASAN) || defined(SIM_TSAN)
constexpr size_t kStackBytes = 256 * 1024;
#else
constexpr size_t kStackBytes = 64 * 1024;
#endif
constexpr uint64_t kStackCanary = 0x5AFE57ACC5AFE57A;

struct Fiber {
    void* stack_pointer = nullptr;
    char* stack = nullptr;           // lowest address; null for the thread that called sim_run
    size_t stack_bytes = 0;
    void* fake_stack = nullptr;      // ASan's
};

inline Fiber* new_fiber(int index) {
    // The system call itself: TSan's mmap would fill four bytes of shadow for each byte of stack.
    char* stack = reinterpret_cast<char*>(syscall(SYS_mmap, nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (reinterpret_cast<intptr_t>(stack) == -1) {
        std::fprintf(stderr, "simulator: no memory for the stack of fiber %d\n", index);
        std::abort();
    }
    auto* fiber = new Fiber;
    fiber->stack = stack;
    fiber->stack_bytes = kStackBytes;
    std::memcpy(stack, &kStackCanary, sizeof kStackCanary);
    return fiber;
}

// Makes `fiber` start at `entry` when it is switched to. Stacks start at different cache sets: all at one 64 KiB offset cost twice the time.
inline void reset_fiber(Fiber* fiber, int index, void (*entry)()) {
    char* top = fiber->stack + fiber->stack_bytes - 256 - (index % 61) * 192;
    auto** frame = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(top) & ~uintptr_t{15});
    *--frame = nullptr;              // so that entry sees rsp = 8 mod 16, as after a call
    *--frame = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; ++i) *--frame = nullptr;
    fiber->stack_pointer = frame;
    fiber->fake_stack = nullptr;
}

inline bool stack_overflowed(const Fiber* fiber) {
    return fiber->stack && std::memcmp(fiber->stack, &kStackCanary, sizeof kStackCanary) != 0;
}

}  // namespace sim
