// qkv_post: everything between the QKV projection's GEMM and attention.
//
//     q, k, v = split(qkv[r] + bias);  q, k = norm(q), norm(k);  q, k = rotate(q), rotate(k) by positions[r]
//     q_out[r] = q;  keys[row of the cache][.][slot] = k;  values[row of the cache][.][slot] = v
//
// Row r belongs to the sequence b with row_starts[b] <= r < row_starts[b + 1]; its slot is cache_starts[b] + r - row_starts[b], in row
// cache_rows[b] of the cache. The norm is over each head (q_weight (head_dim,)) or, with kWholeNorm, over all heads of q, or of k, at
// once (q_weight (num_heads * head_dim,), k_weight (num_kv_heads * head_dim,)). Elements at and past rotary_dim are not rotated.
//
// in:     qkv           (rows, (num_heads + 2 num_kv_heads) * head_dim) T: all q heads, then k, then v
//         bias          (the same width,) T, or null
//         q_weight, q_bias, k_weight, k_bias   float32, or null: both weights where kNorm is not kNormNone, biases where the model has them
//         frequencies   (rotary_dim / 2,) float32, radians a position; rotary_dim 0 for families without rotary
//         positions     (rows,) int32
//         row_starts    (batch + 1,) int32;  cache_rows, cache_starts   (batch,) int32
// out:    q_out         (rows, num_heads * head_dim) T
//         keys, values  (max_batch, num_kv_heads, max_context, head_dim) T: one slot of each head is written
// launch: grid (rows), block (kThreads); a warp takes heads warp, warp + kWarps, ...; no dynamic shared memory
// needs:  head_dim a multiple of 8, at most 256; rotary_dim even, at most head_dim; num_heads a multiple of num_kv_heads
// moves:  rows * 2 * (num_heads + 2 num_kv_heads) * head_dim * sizeof(T) bytes
// source: EET self_add_bias.cu, fused_QKV_bias_rotary_kernel (float16 only there); RoFormer (arXiv 2104.09864)

#include "rope_pairs.cuh"
#include "row_norm.cuh"

template <typename T> __device__ __forceinline__ float biased(const T* row, const T* bias, int i) {
    return to_float(load_fresh(row + i)) + (bias ? to_float(bias[i]) : 0.0f);
}

// Mean and 1 / sqrt(var + eps) of `count` values of a row from column `from`, read by the whole block.
template <typename T, int kNorm, int kThreads>
__device__ __forceinline__ void whole_statistics(
    const T* row, const T* bias, int from, int count, float eps, float& mean, float& inverse) {
    mean = 0.0f;
    float sum = 0.0f, squares = 0.0f;
    if constexpr (kNorm == kNormLayer) {
        for (int i = threadIdx.x; i < count; i += kThreads) sum += biased(row, bias, from + i);
        mean = block_sum<kThreads>(sum) / count;
    }
    for (int i = threadIdx.x; i < count; i += kThreads) {
        const float x = biased(row, bias, from + i) - mean;
        squares += x * x;
    }
    inverse = rsqrtf(block_sum<kThreads>(squares) / count + eps);
}

template <typename T, int kNorm, bool kWholeNorm, bool kInterleaved, int kThreads>
__global__ __launch_bounds__(kThreads) void qkv_post(
    const T* qkv, const T* __restrict__ bias, const float* __restrict__ q_weight, const float* __restrict__ q_bias,
    const float* __restrict__ k_weight, const float* __restrict__ k_bias, const float* __restrict__ frequencies,
    const int32_t* positions, const int32_t* row_starts, const int32_t* cache_rows,
    const int32_t* cache_starts, T* __restrict__ q_out, T* __restrict__ keys, T* __restrict__ values, int32_t batch,
    int32_t num_heads, int32_t num_kv_heads, int32_t head_dim, int32_t rotary_dim, int64_t max_context, float eps) {
    constexpr int kMaxPairs = 128, kPairs = kMaxPairs / kWarp;
    const int64_t r = blockIdx.x;
    const int thread = threadIdx.x;
    const T* row = qkv + r * (num_heads + 2 * num_kv_heads) * head_dim;
    SMEM(float, cosines, kMaxPairs);
    SMEM(float, sines, kMaxPairs);

    pdl_wait();
    int low = 0, high = batch - 1;   // the last sequence that starts at or before r and is not empty
    while (low < high) {
        const int middle = (low + high + 1) / 2;
        if (row_starts[middle] <= r) low = middle;
        else high = middle - 1;
    }
    const int64_t cache_row = cache_rows[low], slot = cache_starts[low] + r - row_starts[low];
    for (int i = thread; 2 * i < rotary_dim; i += kThreads) {
        const float angle = static_cast<float>(positions[r]) * frequencies[i];
        cosines[i] = cosf(angle);
        sines[i] = sinf(angle);
    }
    float q_mean = 0.0f, q_inverse = 1.0f, k_mean = 0.0f, k_inverse = 1.0f;
    if constexpr (kNorm != kNormNone && kWholeNorm) {
        const int q_size = num_heads * head_dim;
        whole_statistics<T, kNorm, kThreads>(row, bias, 0, q_size, eps, q_mean, q_inverse);
        whole_statistics<T, kNorm, kThreads>(row, bias, q_size, num_kv_heads * head_dim, eps, k_mean, k_inverse);
    }
    __syncthreads();

    for (int head = warp_id(); head < num_heads + 2 * num_kv_heads; head += kThreads / kWarp) {
        const bool is_q = head < num_heads, is_v = head >= num_heads + num_kv_heads;
        const int from = head * head_dim;
        float x[kPairs], y[kPairs];
        float sum = 0.0f, squares = 0.0f;
#pragma unroll
        for (int i = 0; i < kPairs; ++i) {
            const int p = i * kWarp + lane_id();
            int first, second;
            pair_elements<kInterleaved>(p, rotary_dim, first, second);
            const bool inside = 2 * p < head_dim;
            x[i] = inside ? biased(row, bias, from + first) : 0.0f;
            y[i] = inside ? biased(row, bias, from + second) : 0.0f;
            sum += x[i] + y[i];
        }
        if constexpr (kNorm != kNormNone) {
            float mean = is_q ? q_mean : k_mean, inverse = is_q ? q_inverse : k_inverse;
            if constexpr (!kWholeNorm) {
                mean = kNorm == kNormLayer ? warp_sum(sum) / head_dim : 0.0f;
#pragma unroll
                for (int i = 0; i < kPairs; ++i) {
                    const bool inside = 2 * (i * kWarp + lane_id()) < head_dim;
                    squares += inside ? (x[i] - mean) * (x[i] - mean) + (y[i] - mean) * (y[i] - mean) : 0.0f;
                }
                inverse = rsqrtf(warp_sum(squares) / head_dim + eps);
            }
            const float* weight = is_q ? q_weight : k_weight;
            const float* shift = is_q ? q_bias : k_bias;
            const int at = kWholeNorm ? (is_q ? from : from - num_heads * head_dim) : 0;
#pragma unroll
            for (int i = 0; i < kPairs; ++i) {
                const int p = i * kWarp + lane_id();
                if (is_v || 2 * p >= head_dim) break;
                int first, second;
                pair_elements<kInterleaved>(p, rotary_dim, first, second);
                x[i] = (x[i] - mean) * inverse * weight[at + first] + (shift ? shift[at + first] : 0.0f);
                y[i] = (y[i] - mean) * inverse * weight[at + second] + (shift ? shift[at + second] : 0.0f);
            }
        }
        const int kv_head = is_v ? head - num_heads - num_kv_heads : head - num_heads;
        T* target = is_q ? q_out + r * num_heads * head_dim + from
                         : (is_v ? values : keys) + ((cache_row * num_kv_heads + kv_head) * max_context + slot) * head_dim;
#pragma unroll
        for (int i = 0; i < kPairs; ++i) {
            const int p = i * kWarp + lane_id();
            if (2 * p >= head_dim) break;
            int first, second;
            pair_elements<kInterleaved>(p, rotary_dim, first, second);
            const bool turns = !is_v && 2 * p < rotary_dim;
            target[first] = from_float<T>(turns ? x[i] * cosines[p] - y[i] * sines[p] : x[i]);
            target[second] = from_float<T>(turns ? y[i] * cosines[p] + x[i] * sines[p] : y[i]);
        }
    }
    pdl_trigger();
}
