// Runs a launch: every CUDA thread is a fiber; a fiber runs until it must wait for others. Compiled without sanitizers.
#include "scheduler.h"
#include "fiber.h"

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
void reserve_fibers(int count) {
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

void leave_for_main() {
    Fiber* from = sim_current->fiber;
    retire(from);
    sim_current = nullptr;
#if defined(SIM_TSAN)
    __tsan_switch_to_fiber(machine.tsan, kTsanNoSync);
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
    self->state = State::kRunnable;  // whoever made it runnable set its bit in the warp
}

void make_runnable(Thread* thread) {
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

Thread* pick_in(Warp* warp) { return thread_of(warp, next_bit(warp->runnable, warp->cursor)); }

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

// After a failure the threads are abandoned where they stood.
void abandon_fibers() {
    for (num_idle = 0; num_idle < num_fibers; ++num_idle) idle[num_idle] = fibers[num_idle];
}

// Runs the blocks that are resident to their end.
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

}  // namespace sim
