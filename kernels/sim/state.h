// What the simulator knows of a launch: its blocks, warps and threads. Included by kernels (through cuda_sim.h) and by the runtime.
#pragma once

#include <cstddef>
#include <cstdint>

struct uint3 { unsigned x, y, z; };
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace sim {

constexpr int kWarpSize = 32;
constexpr int kMaxWarps = 32;       // 1024 threads a block, as on every GPU since Fermi
constexpr int kMaxSites = 64;       // SMEM declarations of one kernel
constexpr int kMaxCopies = 128;     // cp.async of one thread that it has not waited for
constexpr size_t kStaticShared = 48 * 1024;
constexpr size_t kRedZone = 64;     // bytes between shared arrays that nobody may touch
constexpr unsigned char kPoison = 0xFF;   // NaN in float32, float16 and bfloat16; -1 in integers
constexpr unsigned char kCanary = 0xA5;

struct Site {                        // a place in the kernel's source
    const char* file;
    int line;
};

enum class State : uint8_t { kUnstarted, kRunnable, kAtBarrier, kAtWarpOp, kFinished };

struct Copy {                        // one cp.async between its issue and its wait
    void* target;
    const void* source;              // null: the zero-filling form with its predicate false
    int group;
};

struct Block;
struct Warp;
struct Fiber;
struct WarpOp;

struct Thread {
    uint3 index;
    int lane;
    int position;                    // of the lane in the launch's order
    Warp* warp;
    State state;
    Fiber* fiber;
    void* tsan;                      // TSan's handle: every CUDA thread is a thread to it
    Site site;                       // where it waits
    const char* what;                // what it waits for
    uint64_t result;                 // of the collective it waited for
    bool fenced;                     // race mode: its next atomic publishes what it wrote before the fence
    int num_atomics;
    const void* atomics[8];          // race mode: the atomics since its last fence, which that fence will acquire
    int num_groups, num_copies;      // cp.async: groups committed, copies not yet done
    Copy* copies;                    // kMaxCopies of them, kept apart: what a switch touches stays together
};

struct Launch {                      // filled by the launcher, see entry.h
    uint32_t grid[3];
    uint32_t block[3];
    uint64_t shared_bytes;
    uint32_t cooperative;            // all blocks are resident at once: grid barriers and spin waits may be used
    uint32_t seed;                   // 0: natural order; 1: reversed; others: a random order of blocks, warps and lanes
};

extern "C" {
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
extern Thread* sim_current;

void sim_fail(const char* format, ...) __attribute__((format(printf, 1, 2), noreturn));
void sim_fail_at(Site site, const char* format, ...) __attribute__((format(printf, 2, 3), noreturn));
int sim_sync_threads(Site site, int predicate);   // how many threads of the block gave a true predicate
void sim_sync_warp(Site site, uint32_t mask);
uint64_t sim_shuffle(Site site, uint32_t mask, uint64_t value, int source_lane);
uint32_t sim_ballot(Site site, uint32_t mask, int predicate);
void sim_mma_16816(Site site, float* d, const uint32_t* a, const uint32_t* b, const float* c, int is_bfloat16);
void sim_exchange_rows(Site site, const void* row, const void** rows);   // ldmatrix: all 32 row addresses
void sim_spin(Site site, const char* what);
void sim_require_cooperative(Site site);
void* sim_shared_array(int id, Site site, const char* name, size_t bytes, size_t alignment);
void* sim_dynamic_shared(Site site, size_t alignment);
int sim_new_site();
void sim_fence();
void sim_before_atomic(const void* address);
void sim_after_atomic(const void* address);
int sim_run(const Launch* launch, void (*kernel)(void*), void* arguments, char* message, size_t message_bytes);
}

}  // namespace sim

using sim::blockDim;
using sim::blockIdx;
using sim::gridDim;
using sim::threadIdx;
