// A launch from its first block to its last. Compiled without sanitizers.
#include "scheduler.h"

#include <csetjmp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <xmmintrin.h>

namespace sim {

#if !defined(SIM_ISOLATED)
// A wild address would end the Python process; here it becomes the launch's error. Works from any fiber: the handler has its own stack.
static sigjmp_buf wild_access;
static char signal_stack[64 * 1024];

static void on_fault(int, siginfo_t* info, void*) {
    std::snprintf(machine.message, sizeof machine.message,
                  "invalid memory access at address %p by thread (%u,%u,%u) of block (%u,%u,%u); "
                  "the address mode names the line", info->si_addr, threadIdx.x, threadIdx.y, threadIdx.z,
                  blockIdx.x, blockIdx.y, blockIdx.z);
    siglongjmp(wild_access, 1);
}

struct FaultGuard {
    struct sigaction old_segv, old_bus;
    stack_t old_stack;
    FaultGuard() {
        stack_t stack = {};
        stack.ss_sp = signal_stack;
        stack.ss_size = sizeof signal_stack;
        sigaltstack(&stack, &old_stack);
        struct sigaction action = {};
        action.sa_sigaction = on_fault;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        sigaction(SIGSEGV, &action, &old_segv);
        sigaction(SIGBUS, &action, &old_bus);
    }
    ~FaultGuard() {
        sigaction(SIGSEGV, &old_segv, nullptr);
        sigaction(SIGBUS, &old_bus, nullptr);
        sigaltstack(&old_stack, nullptr);
    }
};
#endif

static void run_blocks(const Launch* launch) {
    int total = launch->grid[0] * launch->grid[1] * launch->grid[2];
    int resident = launch->cooperative ? total : 1;
#if defined(SIM_TSAN)
    resident = total;                // as threads of their own, so that a race between two blocks is one between two threads
#endif
    if (machine.capacity < resident) {
        machine.blocks = static_cast<Block**>(std::realloc(machine.blocks, resident * sizeof(Block*)));
        while (machine.capacity < resident) machine.blocks[machine.capacity++] = new_block();
    }
    machine.num_blocks = resident;
    reserve_fibers(resident * launch->block[0] * launch->block[1] * launch->block[2]);
    machine.spin_cursor = 0;
    int* order = static_cast<int*>(std::malloc(total * sizeof(int)));
    fill_order(order, total);
    for (int i = 0; i < total && !machine.failed; ++i) {
        uint32_t b = order[i];
        uint3 index = {b % launch->grid[0], b / launch->grid[0] % launch->grid[1], b / launch->grid[0] / launch->grid[1]};
        start_block(machine.blocks[i % resident], index);
        if ((i + 1) % resident == 0) run_resident();
    }
    std::free(order);
}

extern "C" int sim_run(const Launch* launch, void (*kernel)(void*), void* arguments, char* message, size_t message_bytes) {
    machine.launch = launch;
    machine.kernel = kernel;
    machine.arguments = arguments;
    machine.failed = false;
    machine.message[0] = 0;
    machine.random = launch->seed * 0x9E3779B97F4A7C15ull + 1;
    blockDim = {launch->block[0], launch->block[1], launch->block[2]};
    gridDim = {launch->grid[0], launch->grid[1], launch->grid[2]};
    fill_order(machine.lane_order, kWarpSize);
#if defined(SIM_TSAN)
    machine.tsan = __tsan_get_current_fiber();
#endif
    unsigned rounding = _mm_getcsr();
    _mm_setcsr(rounding | 0x8040);   // denormals are zero, in and out: CuPy compiles with -ftz=true
#if defined(SIM_ISOLATED)
    run_blocks(launch);
#if defined(SIM_TSAN)
    __tsan_acquire(&machine);
#endif
#else
    FaultGuard guard;
    if (sigsetjmp(wild_access, 1) == 0) run_blocks(launch);
    else machine.failed = true;
    if (machine.failed) abandon_fibers();
#endif
    _mm_setcsr(rounding);
    sim_current = nullptr;
    std::snprintf(message, message_bytes, "%s", machine.message);
    return machine.failed ? 1 : 0;
}

}  // namespace sim
