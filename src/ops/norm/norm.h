// Normalisation of rows.
//
//   rms_norm:    y = x / sqrt(mean(x^2) + eps) * weight                       (Zhang and Sennrich 2019)
//   layer_norm:  y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias       (Ba et al. 2016)
//
// Statistics in f32. T rows of H; f32, bf16 or f16 (weight and bias have x's dtype).
#pragma once

#include <cstdint>

#include "device/context.h"
#include "device/tensor.h"

namespace xmoe {

enum class NormKind : std::uint8_t { rms_norm, layer_norm };

void norm_forward(
    const Context& ctx, NormKind kind, float epsilon,
    const Tensor& x,       // [T, H]
    const Tensor& weight,  // [H]
    const Tensor& bias,    // [H]; undefined for rms_norm
    const Tensor& y,       // [T, H]
    const Tensor& stats);  // [T, 2] f32: mean (0 for rms_norm), 1 / deviation; kept for backward

// y again from the kept statistics, bit for bit (so that y need not be kept).
void norm_recompute(const Context& ctx, NormKind kind, const Tensor& x, const Tensor& weight,
                    const Tensor& bias, const Tensor& stats, const Tensor& y);

void norm_backward(const Context& ctx, NormKind kind,
                   const Tensor& dy,       // [T, H]
                   const Tensor& x,        // [T, H]
                   const Tensor& weight,   // [H]
                   const Tensor& stats,    // [T, 2] f32
                   const Tensor& dx,       // [T, H]; added to: it holds the gradient of the residual path
                   const Tensor& dweight,  // [H] f32; added to
                   const Tensor& dbias);   // [H] f32; added to; undefined for rms_norm

}  // namespace xmoe
