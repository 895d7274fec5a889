// The runtime's own view: blocks, warps and the rule that picks the next thread. One operating-system thread runs everything.
#pragma once

#include "sanitizers.h"
#include "state.h"

namespace sim {

enum class Op : uint8_t { kSync, kShuffle, kBallot, kMma, kRows };

struct MmaOperands {
    float* d;
    const uint32_t* a;
    const uint32_t* b;
    const float* c;
    bool is_bfloat16;
};

struct WarpOp {                      // a warp operation that some lanes of `mask` have reached
    Op kind;
    Site site;
    uint32_t mask, arrived;          // one bit a lane
    uint32_t waiting;                // one bit a lane, at its position
    int generation;                  // which of the warp's two sync objects it uses (race mode)
    uint64_t values[kWarpSize];
    uint64_t extras[kWarpSize];
};

struct Warp {
    Block* block;
    int index, position;
    uint32_t runnable, at_barrier;   // one bit a lane, at its position in the launch's order
    uint32_t finished;               // one bit a lane
    int cursor;                      // position of the lane that ran last
    int num_ops, generation;
    WarpOp ops[kWarpSize];
    char sync[2];
    Thread threads[kWarpSize];       // by position
    Thread* lanes[kWarpSize];
    Copy copies[kWarpSize][kMaxCopies];
};

struct SharedArray {
    char* address;
    size_t bytes;
    Site site;
    const char* name;
    int id;                          // of its declaration, unique in the process; a block's arrays stand in order of first use
};

struct Block {
    uint3 index;
    int num_warps, num_threads;
    int num_finished, arrived, predicates, generation;
    Site barrier;                    // where the first to arrive waits
    uint32_t runnable_warps;         // one bit a warp, at its position
    Warp* warps[kMaxWarps];          // by position
    char sync[2];
    char* arena;                     // static shared memory, then dynamic
    size_t arena_bytes, used;
    SharedArray arrays[kMaxSites + 1];   // the last is the dynamic one
};

struct Machine {                     // the launch in progress
    const Launch* launch;
    void (*kernel)(void*);
    void* arguments;
    Block** blocks;
    int num_blocks, capacity;        // resident now, allocated
    int live;                        // threads not finished
    int idle_spins;                  // spin waits since a thread last got anywhere
    int spin_cursor;                 // the thread that a spin wait last gave its turn to
    int lane_order[kWarpSize];
    uint64_t random;
    void* tsan;                      // race mode: the thread that called sim_run
    bool failed;
    char message[8192];
};

extern Machine machine;

uint32_t random_below(uint32_t n);
void fill_order(int* order, int n);
Thread* pick_next(Warp* warp);
void make_runnable(Thread* thread);
void block_current(State state, Site site, const char* what);   // returns when somebody has made it runnable
void finish_current();
void report_deadlock();
void start_block(Block* block, uint3 index);
Block* new_block();
void check_shared(Block* block);
void run_resident();
void reserve_fibers(int count);
void abandon_fibers();
void leave_for_main();               // does not return
Thread* pick_in(Warp* warp);
void check_lane_may_leave(Thread* thread);

inline Thread* thread_of(Warp* warp, int position) { return &warp->threads[position]; }

}  // namespace sim
