// The process of one launch in the address and race modes: reads the request that sim_isolated.py wrote, runs, writes the arrays back.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "state.h"

extern "C" int sim_launch(const sim::Launch* launch, void** arguments, char* message, size_t message_bytes);

extern "C" const char* __asan_default_options() { return "detect_leaks=0:abort_on_error=0:exitcode=4:detect_stack_use_after_return=0"; }
extern "C" const char* __ubsan_default_options() { return "print_stacktrace=1:exitcode=4"; }
extern "C" const char* __tsan_default_options() { return "halt_on_error=1:exitcode=5:report_signal_unsafe=0:history_size=4:atexit_sleep_ms=0"; }

namespace {

void read(void* target, size_t bytes, FILE* file) {
    if (bytes && std::fread(target, bytes, 1, file) != 1) {
        std::fprintf(stderr, "SIMULATOR: the request is cut short\n");
        std::exit(2);
    }
}

template <typename T> T read(FILE* file) {
    T value;
    read(&value, sizeof value, file);
    return value;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 3) return 2;
    FILE* request = std::fopen(argv[1], "rb");
    if (!request) return 2;
    auto launch = read<sim::Launch>(request);
    auto num_buffers = read<uint32_t>(request);
    auto** buffers = static_cast<char**>(std::calloc(num_buffers + 1, sizeof(char*)));
    auto* sizes = static_cast<uint64_t*>(std::calloc(num_buffers + 1, sizeof(uint64_t)));
    for (uint32_t i = 0; i < num_buffers; ++i) {
        sizes[i] = read<uint64_t>(request);
        if (posix_memalign(reinterpret_cast<void**>(&buffers[i]), 256, sizes[i])) return 2;
        read(buffers[i], sizes[i], request);
    }
    auto num_arguments = read<uint32_t>(request);
    auto* cells = static_cast<uint64_t*>(std::calloc(2 * num_arguments + 1, sizeof(uint64_t)));
    auto** arguments = static_cast<void**>(std::calloc(num_arguments + 1, sizeof(void*)));
    for (uint32_t i = 0; i < num_arguments; ++i) {
        auto kind = read<uint32_t>(request);
        uint64_t* cell = cells + 2 * i;
        read(cell, 16, request);
        if (kind == 1) *reinterpret_cast<char**>(cell) = buffers[cell[0]] + cell[1];
        arguments[i] = cell;
    }
    std::fclose(request);
    char message[8192];
    if (sim_launch(&launch, arguments, message, sizeof message)) {
        std::fprintf(stderr, "SIMULATOR: %s\n", message);
        return 3;
    }
    FILE* answer = std::fopen(argv[2], "wb");
    if (!answer) return 2;
    for (uint32_t i = 0; i < num_buffers; ++i)
        if (sizes[i] && std::fwrite(buffers[i], sizes[i], 1, answer) != 1) return 2;
    return std::fclose(answer) ? 2 : 0;
}
