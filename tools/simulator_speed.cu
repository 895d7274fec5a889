// What the simulator's speed is measured with: a block reduction, a matrix-vector product, a row of tensor-core tiles.
#include "common.cuh"

template <int kThreads>
__global__ __launch_bounds__(kThreads) void reduce(const float* __restrict__ x, float* __restrict__ sums) {
    const float sum = block_sum<kThreads>(x[blockIdx.x * kThreads + threadIdx.x]);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// One warp a row.
template <typename T, int kThreads>
__global__ __launch_bounds__(kThreads) void gemv(const T* __restrict__ w, const T* __restrict__ x, float* __restrict__ y, int32_t n) {
    const int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + warp_id();
    float sum = 0.0f;
    for (int k = lane_id() * 8; k < n; k += kWarp * 8) {
        float a[8], b[8];
        load_floats_stream(w + row * n + k, a);
        load_floats(x + k, b);
#pragma unroll
        for (int i = 0; i < 8; ++i) sum = fmaf(a[i], b[i], sum);
    }
    sum = warp_sum(sum);
    if (lane_id() == 0) y[row] = sum;
}

template <typename T>
__global__ void tiles(float* __restrict__ out, int32_t n) {
    const uint32_t one = pack2<T>(1.0f, 1.0f);
    const uint32_t a[4] = {one, one, one, one}, b[2] = {one, one};
    float d[4] = {};
    for (int i = 0; i < n; ++i) mma_16816<T>(d, a, b, d);
    out[threadIdx.x] = d[0];
}
