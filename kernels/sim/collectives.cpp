// What threads do together: barriers, warp operations, matrix tiles. Compiled without sanitizers.
#include "scheduler.h"
#include "types.h"

#include <cstring>

namespace sim {

static bool same_place(Site a, Site b) { return a.line == b.line && (a.file == b.file || !std::strcmp(a.file, b.file)); }

static void release(void* object) {
#if defined(SIM_TSAN)
    __tsan_release(object);
#endif
    (void)object;
}

static void acquire(void* object) {
#if defined(SIM_TSAN)
    __tsan_acquire(object);
#endif
    (void)object;
}

// ---- the block barrier ----

extern "C" int sim_sync_threads(Site site, int predicate) {
    Thread* self = sim_current;
    Block* block = self->warp->block;
    if (block->num_finished)
        sim_fail_at(site, "__syncthreads after %d threads of the block have returned", block->num_finished);
    if (block->arrived == 0) block->barrier = site;
    else if (!same_place(block->barrier, site))
        sim_fail_at(site, "divergent __syncthreads: %d threads of the block wait at %s:%d", block->arrived,
                    block->barrier.file, block->barrier.line);
    void* object = &block->sync[block->generation & 1];
    release(object);
    block->arrived += 1;
    block->predicates += predicate ? 1 : 0;
    if (block->arrived < block->num_threads) {
        self->warp->at_barrier |= 1u << self->position;
        block_current(State::kAtBarrier, site, "__syncthreads");
        acquire(object);
        return static_cast<int>(self->result);
    }
    int count = block->predicates;
    block->arrived = block->predicates = 0;
    block->generation += 1;
    for (int w = 0; w < block->num_warps; ++w) {
        Warp* warp = block->warps[w];
        for (uint32_t bits = warp->at_barrier; bits; bits &= bits - 1) {
            Thread* thread = thread_of(warp, __builtin_ctz(bits));
            thread->result = count;
        }
        warp->runnable |= warp->at_barrier;
        warp->at_barrier = 0;
        if (warp->runnable) block->runnable_warps |= 1u << w;
    }
    machine.idle_spins = 0;
    acquire(object);
    return count;
}

void check_lane_may_leave(Thread* thread) {
    Block* block = thread->warp->block;
    if (block->arrived)
        sim_fail("thread (%u,%u,%u) of block (%u,%u,%u) returned while %d threads wait at %s:%d for __syncthreads",
                 threadIdx.x, threadIdx.y, threadIdx.z, blockIdx.x, blockIdx.y, blockIdx.z, block->arrived,
                 block->barrier.file, block->barrier.line);
    for (int i = 0; i < thread->warp->num_ops; ++i) {
        WarpOp* op = &thread->warp->ops[i];
        if (op->mask >> thread->lane & 1)
            sim_fail("lane %d (thread (%u,%u,%u) of block (%u,%u,%u)) returned while its warp waits for it at %s:%d",
                     thread->lane, threadIdx.x, threadIdx.y, threadIdx.z, blockIdx.x, blockIdx.y, blockIdx.z,
                     op->site.file, op->site.line);
    }
}

// ---- warp operations ----

static const char* const kOpNames[] = {"__syncwarp", "a shuffle", "a vote", "mma", "ldmatrix"};

static WarpOp* find_op(Thread* self, Site site, Op kind, uint32_t mask) {
    Warp* warp = self->warp;
    if (!(mask >> self->lane & 1)) sim_fail_at(site, "lane %d is not in its own mask %#x", self->lane, mask);
    if (mask & warp->finished)
        sim_fail_at(site, "mask %#x names lanes that have returned (%#x)", mask, mask & warp->finished);
    for (int i = 0; i < warp->num_ops; ++i) {
        WarpOp* op = &warp->ops[i];
        bool wants_me = op->mask >> self->lane & 1;
        if (op->mask != mask) {      // two that wait for each other with different masks never meet
            if (!wants_me || !(op->arrived & mask)) continue;
            sim_fail_at(site, "mask %#x where lanes %#x wait for this one with mask %#x at %s:%d", mask, op->arrived, op->mask,
                        op->site.file, op->site.line);
        }
        if (op->kind != kind || !same_place(op->site, site))
            sim_fail_at(site, "divergent warp operation: lanes %#x wait at %s:%d for %s", op->arrived, op->site.file,
                        op->site.line, kOpNames[static_cast<int>(op->kind)]);
        return op;
    }
    WarpOp* op = &warp->ops[warp->num_ops++];
    op->kind = kind;
    op->site = site;
    op->mask = mask;
    op->arrived = op->waiting = 0;
    op->generation = warp->generation++;
    return op;
}

static void close_op(Warp* warp, WarpOp* op) {   // by the last lane, which is running already
    warp->runnable |= op->waiting;
    if (op->waiting) warp->block->runnable_warps |= 1u << warp->position;
    machine.idle_spins = 0;
    *op = warp->ops[--warp->num_ops];
}

// Adds this lane to the operation; true when it is the last, which then does the work for all.
static bool arrive(WarpOp* op, Thread* self, uint64_t value, uint64_t extra) {
    op->values[self->lane] = value;
    op->extras[self->lane] = extra;
    op->arrived |= 1u << self->lane;
    return op->arrived == op->mask;
}

static void wait_for_warp(WarpOp* op) {
    op->waiting |= 1u << sim_current->position;
    block_current(State::kAtWarpOp, op->site, kOpNames[static_cast<int>(op->kind)]);
}

extern "C" void sim_sync_warp(Site site, uint32_t mask) {
    Thread* self = sim_current;
    Warp* warp = self->warp;
    WarpOp* op = find_op(self, site, Op::kSync, mask);
    void* object = &warp->sync[op->generation & 1];
    release(object);
    if (arrive(op, self, 0, 0)) close_op(warp, op);
    else wait_for_warp(op);
    acquire(object);
}

extern "C" uint64_t sim_shuffle(Site site, uint32_t mask, uint64_t value, int source_lane) {
    Thread* self = sim_current;
    if (!(mask >> source_lane & 1)) sim_fail_at(site, "a shuffle reads lane %d, which is not in its mask %#x", source_lane, mask);
    WarpOp* op = find_op(self, site, Op::kShuffle, mask);
    if (!arrive(op, self, value, source_lane)) {
        wait_for_warp(op);
        return self->result;
    }
    for (uint32_t bits = mask; bits; bits &= bits - 1) {
        int lane = __builtin_ctz(bits);
        self->warp->lanes[lane]->result = op->values[op->extras[lane]];
    }
    close_op(self->warp, op);
    return self->result;
}

extern "C" uint32_t sim_ballot(Site site, uint32_t mask, int predicate) {
    Thread* self = sim_current;
    WarpOp* op = find_op(self, site, Op::kBallot, mask);
    if (!arrive(op, self, predicate != 0, 0)) {
        wait_for_warp(op);
        return static_cast<uint32_t>(self->result);
    }
    uint32_t votes = 0;
    for (uint32_t bits = mask; bits; bits &= bits - 1) votes |= static_cast<uint32_t>(op->values[__builtin_ctz(bits)]) << __builtin_ctz(bits);
    for (uint32_t bits = mask; bits; bits &= bits - 1) self->warp->lanes[__builtin_ctz(bits)]->result = votes;
    close_op(self->warp, op);
    return votes;
}

extern "C" void sim_exchange_rows(Site site, const void* row, const void** rows) {
    Thread* self = sim_current;
    WarpOp* op = find_op(self, site, Op::kRows, ~0u);
    if (!arrive(op, self, reinterpret_cast<uint64_t>(row), reinterpret_cast<uint64_t>(rows))) {
        wait_for_warp(op);
        return;
    }
    for (int lane = 0; lane < kWarpSize; ++lane)
        for (int i = 0; i < kWarpSize; ++i)
            reinterpret_cast<const void**>(op->extras[lane])[i] = reinterpret_cast<const void*>(op->values[i]);
    close_op(self->warp, op);
}

static float element(uint32_t pair, int half, bool is_bfloat16) {
    uint16_t bits = static_cast<uint16_t>(half ? pair >> 16 : pair);
    return is_bfloat16 ? bfloat16_bits_to_float(bits) : half_bits_to_float(bits);
}

// D = A B + C for one warp; A is 16 x 16 row-major, B 16 x 8 column-major, fragments as PTX ISA "mma.m16n8k16" lays them out.
static void multiply_tile(WarpOp* op) {
    const MmaOperands* operands[kWarpSize];
    float a[16][16], b[8][16], d[16][8];
    for (int lane = 0; lane < kWarpSize; ++lane) {
        const auto* own = operands[lane] = reinterpret_cast<const MmaOperands*>(op->values[lane]);
        int row = lane / 4, column = 2 * (lane % 4);
        for (int i = 0; i < 2; ++i) {
            for (int r = 0; r < 4; ++r) a[row + 8 * (r & 1)][column + 8 * (r >> 1) + i] = element(own->a[r], i, own->is_bfloat16);
            for (int r = 0; r < 2; ++r) b[row][column + 8 * r + i] = element(own->b[r], i, own->is_bfloat16);
        }
    }
    for (int m = 0; m < 16; ++m)
        for (int n = 0; n < 8; ++n) {
            float sum = 0.0f;
            for (int k = 0; k < 16; ++k) sum += a[m][k] * b[n][k];
            d[m][n] = sum;
        }
    for (int lane = 0; lane < kWarpSize; ++lane)
        for (int i = 0; i < 4; ++i)
            operands[lane]->d[i] = operands[lane]->c[i] + d[lane / 4 + 8 * (i >> 1)][2 * (lane % 4) + (i & 1)];
}

extern "C" void sim_mma_16816(Site site, float* d, const uint32_t* a, const uint32_t* b, const float* c, int is_bfloat16) {
    Thread* self = sim_current;
    MmaOperands operands = {d, a, b, c, is_bfloat16 != 0};
    WarpOp* op = find_op(self, site, Op::kMma, ~0u);
    if (!arrive(op, self, reinterpret_cast<uint64_t>(&operands), 0)) {
        wait_for_warp(op);
        return;
    }
    multiply_tile(op);
    close_op(self->warp, op);
}

extern "C" void sim_require_cooperative(Site site) {
    if (!machine.launch->cooperative)
        sim_fail_at(site, "blocks wait for each other in a launch that is not cooperative: nothing says that all are resident");
}

// ---- fences and atomics in race mode: C++'s fence rules, which TSan itself does not know ----

extern "C" void sim_fence() {
    Thread* self = sim_current;
    for (int i = 0; i < self->num_atomics; ++i) acquire(const_cast<void*>(self->atomics[i]));
    self->num_atomics = 0;
    self->fenced = true;
}

extern "C" void sim_before_atomic(const void* address) {
    if (sim_current->fenced) release(const_cast<void*>(address));
    sim_current->fenced = false;
}

extern "C" void sim_after_atomic(const void* address) {
    Thread* self = sim_current;
    if (self->num_atomics == 8) std::memmove(self->atomics, self->atomics + 1, 7 * sizeof(void*));
    else self->num_atomics += 1;
    self->atomics[self->num_atomics - 1] = address;
}

}  // namespace sim
