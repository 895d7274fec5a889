// A block's threads and its shared memory: one arena, red zones between arrays, everything unwritten is NaN. Compiled without sanitizers.
#include "scheduler.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace sim {

Block* new_block() {
    auto* block = static_cast<Block*>(std::calloc(1, sizeof(Block)));
    block->arena_bytes = 512 * 1024;
    block->arena = static_cast<char*>(std::aligned_alloc(128, block->arena_bytes));
    return block;
}

void start_block(Block* block, uint3 index) {
    const Launch* launch = machine.launch;
    block->index = index;
    block->num_threads = launch->block[0] * launch->block[1] * launch->block[2];
    block->num_warps = block->num_threads / kWarpSize;
    block->num_finished = block->arrived = block->predicates = 0;
    block->runnable_warps = 0;
    block->used = 0;
    std::memset(block->arrays, 0, sizeof block->arrays);
    int order[kMaxWarps];
    fill_order(order, block->num_warps);
    for (int p = 0; p < block->num_warps; ++p) {
        if (!block->warps[p]) block->warps[p] = static_cast<Warp*>(std::calloc(1, sizeof(Warp)));
        Warp* warp = block->warps[p];
        warp->block = block;
        warp->index = order[p];
        warp->position = p;
        warp->at_barrier = warp->finished = 0;
        warp->cursor = kWarpSize - 1;
        warp->num_ops = 0;
        for (int i = 0; i < kWarpSize; ++i) {
            Thread* thread = &warp->threads[i];
            int lane = machine.lane_order[i], t = warp->index * kWarpSize + lane;
            thread->index = {t % launch->block[0], t / launch->block[0] % launch->block[1],
                             t / launch->block[0] / launch->block[1]};
            thread->lane = lane;
            thread->position = i;
            thread->warp = warp;
            thread->fenced = false;
            thread->fiber = nullptr;
            thread->copies = warp->copies[i];
            thread->num_atomics = thread->num_groups = thread->num_copies = 0;
            make_runnable(thread);
            thread->state = State::kUnstarted;
            warp->lanes[lane] = thread;
#if defined(SIM_TSAN)
            thread->tsan = __tsan_create_fiber(0);
#endif
        }
    }
}

// Not memset, which TSan would take for a write by the thread that happens to run.
static void fill(void* target, unsigned char value, size_t bytes) {
    asm volatile("rep stosb" : "+D"(target), "+c"(bytes) : "a"(value) : "memory");
}

static int num_sites;

extern "C" int sim_new_site() {
    return num_sites++;   // over every kernel loaded into this process
}

static void* carve(Block* block, SharedArray* array, Site site, const char* name, size_t bytes, size_t alignment) {
    size_t align = alignment < 16 ? 16 : alignment;
    size_t start = (block->used + kRedZone + align - 1) / align * align;
    size_t end = start + bytes, next = end + kRedZone;
    if (next > block->arena_bytes) sim_fail_at(site, "shared memory of more than %zu bytes", block->arena_bytes);
#if defined(SIM_ASAN)
    if (block->used == 0) __asan_unpoison_memory_region(block->arena, block->arena_bytes);
#endif
    fill(block->arena + block->used, kCanary, next - block->used);
    fill(block->arena + start, kPoison, bytes);
#if defined(SIM_ASAN)
    __asan_poison_memory_region(block->arena + block->used, start - block->used);
    __asan_poison_memory_region(block->arena + end, kRedZone);
#endif
    block->used = next;
    *array = {block->arena + start, bytes, site, name, array->id};
    return array->address;
}

extern "C" void* sim_shared_array(int id, Site site, const char* name, size_t bytes, size_t alignment) {
    Block* block = sim_current->warp->block;
    SharedArray* array = block->arrays;
    size_t total = bytes;
    for (; array->address; ++array) {
        if (array->id == id) return array->address;
        total += array->bytes;
        if (array == &block->arrays[kMaxSites - 1]) sim_fail_at(site, "more than %d SMEM declarations in one kernel", kMaxSites);
    }
    array->id = id;
    if (total > kStaticShared)
        sim_fail_at(site, "%zu bytes of static shared memory; a kernel may declare %zu: use DYN_SMEM", total, kStaticShared);
    return carve(block, array, site, name, bytes, alignment);
}

extern "C" void* sim_dynamic_shared(Site site, size_t alignment) {
    Block* block = sim_current->warp->block;
    SharedArray* array = &block->arrays[kMaxSites];
    if (array->address) return array->address;
    return carve(block, array, site, "dynamic shared memory", machine.launch->shared_bytes, alignment);
}

[[maybe_unused]] static bool red_zones_intact(const SharedArray* array) {
    for (size_t k = 1; k <= kRedZone; ++k)
        if (static_cast<unsigned char>(array->address[-static_cast<long>(k)]) != kCanary ||
            static_cast<unsigned char>(array->address[array->bytes + k - 1]) != kCanary)
            return false;
    return true;
}

// After a block's end; the address mode has found it by then, at its line.
void check_shared(Block* block) {
#if !defined(SIM_ASAN)
    for (int i = 0; i <= kMaxSites; ++i) {
        const SharedArray* array = &block->arrays[i];
        if (!array->address || red_zones_intact(array)) continue;
        std::snprintf(machine.message, sizeof machine.message, "%s:%d: block (%u,%u,%u) wrote outside %s (%zu bytes)",
                      array->site.file, array->site.line, block->index.x, block->index.y, block->index.z, array->name, array->bytes);
        machine.failed = true;
    }
#endif
    (void)block;
}

}  // namespace sim
