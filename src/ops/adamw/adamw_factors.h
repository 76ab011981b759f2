// What is the same for all elements, worked out in double: at step 1, 1 - b2^step loses digits in float.
#pragma once

#include <cmath>

#include "ops/adamw/adamw.h"

namespace xmoe {

struct AdamWFactors {
  float grad_scale, beta1, one_minus_beta1, beta2, one_minus_beta2;
  float m_correction, v_correction;  // 1 / (1 - beta^step)
  float learning_rate, epsilon, weight_decay;
  std::uint64_t rounding_key, first_element;
};

inline AdamWFactors adamw_factors(const AdamWOptions& o) {
  const auto step = static_cast<double>(o.step);
  const auto f = [](double x) { return static_cast<float>(x); };
  return {.grad_scale = f(o.grad_scale),
          .beta1 = f(o.beta1),
          .one_minus_beta1 = f(1.0 - o.beta1),
          .beta2 = f(o.beta2),
          .one_minus_beta2 = f(1.0 - o.beta2),
          .m_correction = f(1.0 / (1.0 - std::pow(o.beta1, step))),
          .v_correction = f(1.0 / (1.0 - std::pow(o.beta2, step))),
          .learning_rate = f(o.learning_rate),
          .epsilon = f(o.epsilon),
          .weight_decay = f(o.weight_decay),
          .rounding_key = o.rounding_key,
          .first_element = o.first_element};
}

}  // namespace xmoe
