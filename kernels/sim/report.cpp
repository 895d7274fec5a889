// What went wrong, in words: the message ends the launch. Compiled without sanitizers.
#include "scheduler.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <unistd.h>

namespace sim {

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
