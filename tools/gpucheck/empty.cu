// empty: what a launch costs by itself; waits for its predecessor and lets its successor start, as every kernel here does.
//
// launch: any grid and block
// used by: tools/gpucheck/micro.py

#include "common.cuh"

__global__ void empty() {
    pdl_wait();
    pdl_trigger();
}
