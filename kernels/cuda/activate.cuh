// The MLP's activations, each a function of one float; the codes are template arguments of the kernels that use them.
// source: transformers' activations.py: gelu_new (kGeluTanh), gelu (kGeluErf), silu, relu
#pragma once

#include "common.cuh"

enum Activation { kGeluTanh = 0, kGeluErf = 1, kSilu = 2, kRelu = 3 };

template <int kActivation> __device__ __forceinline__ float activate(float x) {
    if constexpr (kActivation == kGeluTanh) return 0.5f * x * (1.0f + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x)));
    if constexpr (kActivation == kGeluErf) return 0.5f * x * (1.0f + erff(x * 0.7071067811865476f));
    if constexpr (kActivation == kSilu) return x / (1.0f + expf(-x));
    return fmaxf(x, 0.0f);
}
