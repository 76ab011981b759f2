#pragma once

#include "device/arena.h"

namespace xmoe::cpu {

double sum(Arena& workspace, const Tensor& x);
double sum_of_squares(Arena& workspace, const Tensor& x);

}  // namespace xmoe::cpu
