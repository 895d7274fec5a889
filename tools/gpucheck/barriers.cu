// barriers: all blocks meet `count` times; what a grid barrier costs.
//
// inout:  counter   (1,) uint32, 0 before the first launch
// launch: cooperative, grid (blocks), block any
// used by: tools/gpucheck/micro.py

#include "common.cuh"

__global__ void barriers(uint32_t* counter, int32_t count) {
    for (int i = 0; i < count; ++i) grid_barrier(counter, gridDim.x);
}
