// Runs a launch: every CUDA thread is a fiber; a fiber runs until it must wait for others. Compiled without sanitizers.
#include "scheduler.h"
#include "fiber.h"

#include <csetjmp>
#include <csignal>
#include <cstdarg>
#include <unistd.h>
#include <xmmintrin.h>

namespace sim {

Machine machine;

extern "C" {
uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;
Thread* sim_current;
}

static Fiber main_fiber;
static Fiber** fibers;               // every fiber ever made
static Fiber** idle;                 // those that run no thread
static int num_fibers, num_idle, fiber_capacity;

static void fiber_main();

// Makes room for `count` fibers. In race mode it makes them all, here, where nothing runs yet: memory that a thread mapped counts as
// written by that thread.
static void reserve_fibers(int count) {
    if (count > fiber_capacity) {
        fiber_capacity = count;
        fibers = static_cast<Fiber**>(std::realloc(fibers, count * sizeof(Fiber*)));
        idle = static_cast<Fiber**>(std::realloc(idle, count * sizeof(Fiber*)));
    }
#if defined(SIM_TSAN)
    while (num_fibers < count) {
        fibers[num_fibers] = new_fiber(num_fibers);
        idle[num_idle++] = fibers[num_fibers++];
    }
#endif
}

static Fiber* take_fiber() {
    if (num_idle == 0) {
        fibers[num_fibers] = new_fiber(num_fibers);
        idle[num_idle++] = fibers[num_fibers++];
    }
    Fiber* fiber = idle[--num_idle];
    reset_fiber(fiber, static_cast<int>(reinterpret_cast<uintptr_t>(fiber->stack) / kStackBytes % 61), fiber_main);
    return fiber;
}

// Leaves `from` for `to`. `leaving` says that `from` will never be returned to as it is.
static void enter(Fiber* from, Fiber* to, bool leaving) {
#if defined(SIM_ASAN)
    __sanitizer_start_switch_fiber(leaving ? nullptr : &from->fake_stack, to->stack, to->stack_bytes);
#endif
    (void)leaving;
    sim_switch(&from->stack_pointer, to->stack_pointer);
#if defined(SIM_ASAN)
    __sanitizer_finish_switch_fiber(from->fake_stack, nullptr, nullptr);
#endif
}

static void become(Thread* thread) {
    sim_current = thread;
    threadIdx = thread->index;
    blockIdx = thread->warp->block->index;
    thread->warp->cursor = thread->position;
#if defined(SIM_TSAN)
    __tsan_switch_to_fiber(thread->tsan, kTsanNoSync);
#endif
}

// Its stack may serve another thread; not in race mode, where two threads on one stack would look like a race on its variables.
static void retire(Fiber* fiber) {
#if defined(SIM_TSAN)
    (void)fiber;
#else
    idle[num_idle++] = fiber;
#endif
}

static void resume(Thread* next, bool leaving) {
    Thread* self = sim_current;
    if (next == self) return;
    Fiber* from = self ? self->fiber : &main_fiber;
    if (leaving) retire(from);
    if (!next->fiber) next->fiber = take_fiber();
    become(next);
    enter(from, next->fiber, leaving);
}

#if defined(SIM_TSAN)
static void* main_tsan;
#endif

static void leave_for_main() {
    Fiber* from = sim_current->fiber;
    retire(from);
    sim_current = nullptr;
#if defined(SIM_TSAN)
    __tsan_switch_to_fiber(main_tsan, kTsanNoSync);
#endif
    enter(from, &main_fiber, true);
    __builtin_unreachable();
}

static void fiber_main() {
#if defined(SIM_ASAN)
    const void* bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
    if (!main_fiber.stack) {
        main_fiber.stack = static_cast<char*>(const_cast<void*>(bottom));
        main_fiber.stack_bytes = size;
    }
#endif
    for (;;) {                       // a finished thread's fiber runs the next one that has not started
        sim_current->state = State::kRunnable;
        machine.kernel(machine.arguments);
        finish_current();
    }
}

void finish_current() {
    Thread* self = sim_current;
    Warp* warp = self->warp;
    Block* block = warp->block;
    if (stack_overflowed(self->fiber)) sim_fail("a thread's stack of %zu bytes overflowed", kStackBytes);
    check_lane_may_leave(self);
    self->state = State::kFinished;
    warp->runnable &= ~(1u << self->position);
    if (!warp->runnable) block->runnable_warps &= ~(1u << warp->position);
    warp->finished |= 1u << self->lane;
    block->num_finished += 1;
    machine.live -= 1;
    machine.idle_spins = 0;
#if defined(SIM_TSAN)
    __tsan_release(&machine);        // the launch's end is the one thing that every thread comes before
#endif
    Thread* next = pick_next(warp);
    if (!next) {
        if (machine.live > 0) report_deadlock();
        leave_for_main();
    }
#if !defined(SIM_TSAN)               // see retire
    if (!next->fiber) {
        next->fiber = self->fiber;
        become(next);
        return;
    }
#endif
    resume(next, true);
}

void block_current(State state, Site site, const char* what) {
    Thread* self = sim_current;
    Warp* warp = self->warp;
    self->state = state;
    self->site = site;
    self->what = what;
    machine.idle_spins = 0;
    warp->runnable &= ~(1u << self->position);
    if (!warp->runnable) warp->block->runnable_warps &= ~(1u << warp->position);
    Thread* next = pick_next(warp);
    if (!next) report_deadlock();
    resume(next, false);
}

void make_runnable(Thread* thread) {
    thread->state = State::kRunnable;
    thread->warp->runnable |= 1u << thread->position;
    thread->warp->block->runnable_warps |= 1u << thread->warp->position;
}

// The next thread in plain circular order over all resident blocks: while threads spin, everybody gets a turn.
static Thread* pick_after(int& cursor) {
    int warps = machine.blocks[0]->num_warps, total = machine.num_blocks * warps;
    for (int i = 0, at = cursor / kWarpSize % total; i <= total; ++i, at = (at + 1) % total) {
        Warp* warp = machine.blocks[at / warps]->warps[at % warps];
        uint32_t bits = warp->runnable;
        if (i == 0) bits &= cursor % kWarpSize == kWarpSize - 1 ? 0 : ~0u << (cursor % kWarpSize + 1);
        if (!bits) continue;
        cursor = at * kWarpSize + __builtin_ctz(bits);
        return thread_of(warp, __builtin_ctz(bits));
    }
    return sim_current;
}

extern "C" void sim_spin(Site site, const char* what) {
    Thread* self = sim_current;
    self->site = site;
    self->what = what;
    if (++machine.idle_spins > 2 * machine.live + 64) report_deadlock();
    Thread* next = pick_after(machine.spin_cursor);
    resume(next, false);
}

uint32_t random_below(uint32_t n) {  // xorshift64*
    machine.random ^= machine.random >> 12;
    machine.random ^= machine.random << 25;
    machine.random ^= machine.random >> 27;
    return static_cast<uint32_t>((machine.random * 0x2545F4914F6CDD1Dull) >> 33) % n;
}

void fill_order(int* order, int n) {
    for (int i = 0; i < n; ++i) order[i] = machine.launch->seed == 1 ? n - 1 - i : i;
    if (machine.launch->seed < 2) return;
    for (int i = n - 1; i > 0; --i) {
        int j = random_below(i + 1), kept = order[i];
        order[i] = order[j];
        order[j] = kept;
    }
}

static int next_bit(uint32_t bits, int after) {   // the first set bit above `after`, else the lowest
    uint32_t above = after >= 31 ? 0 : bits & (~0u << (after + 1));
    return __builtin_ctz(above ? above : bits);
}

static Thread* pick_in(Warp* warp) { return thread_of(warp, next_bit(warp->runnable, warp->cursor)); }

// Stays in the warp while it can, whose stacks are in the cache; a random order leaves it now and then, as a scheduler would.
Thread* pick_next(Warp* warp) {
    bool stay = machine.launch->seed < 2 || random_below(8) != 0;
    if (warp->runnable && stay) return pick_in(warp);
    Block* block = warp->block;
    if (block->runnable_warps) return pick_in(block->warps[next_bit(block->runnable_warps, warp->position)]);
    if (warp->runnable) return pick_in(warp);
    for (int i = 0, at = 0; i < 2 * machine.num_blocks; ++i) {
        Block* other = machine.blocks[i % machine.num_blocks];
        if (other == block) at = i + 1;
        if (at && other->runnable_warps) return pick_in(other->warps[__builtin_ctz(other->runnable_warps)]);
    }
    return nullptr;
}

// ---- the launch ----

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

void run_resident() {
    machine.live = 0;
    for (int i = 0; i < machine.num_blocks; ++i) machine.live += machine.blocks[i]->num_threads;
    machine.idle_spins = 0;
    sim_current = nullptr;
    Block* first = machine.blocks[0];
    Warp* warp = first->warps[0];
    warp->cursor = kWarpSize - 1;
    resume(pick_in(warp), false);
    if (machine.failed) return;
    for (int i = 0; i < machine.num_blocks; ++i) check_shared(machine.blocks[i]);
}

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
    main_tsan = __tsan_get_current_fiber();
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
    if (machine.failed)              // the threads are abandoned where they stood
        for (num_idle = 0; num_idle < num_fibers; ++num_idle) idle[num_idle] = fibers[num_idle];
#endif
    _mm_setcsr(rounding);
    sim_current = nullptr;
    std::snprintf(message, message_bytes, "%s", machine.message);
    return machine.failed ? 1 : 0;
}

// ---- errors ----

static void end_launch() {
    machine.failed = true;
#if defined(SIM_ISOLATED)
    std::fprintf(stderr, "SIMULATOR: %s\n", machine.message);
    std::fflush(nullptr);
    _exit(3);
#else
    if (sim_current) leave_for_main();
#endif
}

extern "C" void sim_fail(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(machine.message, sizeof machine.message, format, arguments);
    va_end(arguments);
    end_launch();
    std::abort();
}

extern "C" void sim_fail_at(Site site, const char* format, ...) {
    int used = std::snprintf(machine.message, sizeof machine.message, "%s:%d: thread (%u,%u,%u) of block (%u,%u,%u): ",
                             site.file, site.line, threadIdx.x, threadIdx.y, threadIdx.z, blockIdx.x, blockIdx.y, blockIdx.z);
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(machine.message + used, sizeof machine.message - used, format, arguments);
    va_end(arguments);
    end_launch();
    std::abort();
}

static void append(const char* format, ...) {
    size_t used = std::strlen(machine.message);
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(machine.message + used, sizeof machine.message - used, format, arguments);
    va_end(arguments);
}

static bool same_wait(const Thread* a, const Thread* b) {
    return a && b && a->site.line == b->site.line && a->what == b->what && !std::strcmp(a->site.file, b->site.file);
}

// Who waits where: consecutive threads of a block that wait at one place share a line.
void report_deadlock() {
    std::snprintf(machine.message, sizeof machine.message, "deadlock: no thread can get on");
    for (int b = 0; b < machine.num_blocks; ++b) {
        Block* block = machine.blocks[b];
        Thread* first = nullptr;
        int start = 0;
        for (int i = 0; i <= block->num_threads; ++i) {
            Thread* thread = nullptr;
            for (int w = 0; w < block->num_warps && i < block->num_threads; ++w)
                if (block->warps[w]->index == i / kWarpSize) thread = block->warps[w]->lanes[i % kWarpSize];
            bool waits = thread && thread->state != State::kFinished && thread->state != State::kUnstarted;
            if (first && (!waits || !same_wait(first, thread))) {
                append("\n  threads %d..%d of block (%u,%u,%u) wait at %s:%d for %s", start, i - 1, block->index.x,
                       block->index.y, block->index.z, first->site.file, first->site.line, first->what);
                first = nullptr;
            }
            if (waits && !first) {
                first = thread;
                start = i;
            }
        }
        if (block->num_finished) append("\n  %d threads of block (%u,%u,%u) have returned", block->num_finished,
                                        block->index.x, block->index.y, block->index.z);
    }
    end_launch();
    std::abort();
}

}  // namespace sim
