// dequantise: some rows of a quantised weight as T, for a GEMM of many rows; in tiles, so that a scratch of a few MB serves any matrix.
//
//     out[i][k] = d[first_row + i][k / 32] * q[first_row + i][k] (+ m[first_row + i][k / 32])
//
// in:     weights, scales  the planes of a (N, columns) weight in kFormat, see common.cuh
// out:    out              (rows, columns) T: rows first_row .. first_row + rows of the weight
// launch: grid (ceil(rows * columns / (8 * kThreads))), block (kThreads), no dynamic shared memory. A thread writes 8 values next to
//         its neighbour's 8: the writes are the most bytes, so they are the ones that coalesce to the last byte
// needs:  columns a multiple of 32, rows * columns below 2^31
// moves:  rows * columns * (sizeof(T) + 1.0625 q8_0, 0.5625 q4_0, 0.625 q4_1) bytes
// source: the formulas of ggml-quants.c, dequantize_row_q8_0, _q4_0, _q4_1; EET has no quantised weights

#include "common.cuh"

template <typename T, int kFormat, int kThreads>
__global__ __launch_bounds__(kThreads) void dequantise(
    const void* __restrict__ weights, const half* __restrict__ scales, T* __restrict__ out, int32_t first_row, int32_t count,
    int32_t columns) {
    constexpr int kVec = 8;
    const Weights<T, kFormat> matrix = {weights, scales, columns};
    const int64_t at = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kVec;
    float x[kVec];
    const bool active = at < count;
    // Rows follow each other without a gap in both planes, so a tile is one long row of `count` values.
    if (active) load_weights(matrix, first_row, static_cast<int>(at), x);
    pdl_wait();   // the scratch may still be read by the GEMM before; the weights never change
    if (active) store_floats<kVec>(out + at, x);
}
