// Whether a model can be cut as a parallel layout asks, and which layouts would do.
#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "train/config.h"

namespace xmoe {

namespace {

struct Size {
  const char* flag;
  std::int64_t value;
  const char* what;  // the value, where the flag is not it
};

// What is cut into equal parts over the ranks of a tp group.
std::vector<Size> sizes_cut_by_tensor(const ModelConfig& model, const ParallelLayout& layout) {
  std::vector<Size> sizes = {
      {"num-attention-heads", model.heads, ""},
      {"num-query-groups", model.kv_heads, ""},
      {"seq-length", model.seq_length, ""},
      {"make-vocab-size-divisible-by", model.vocabulary, "pads the vocabulary to "},
  };
  bool dense = false;
  for (std::int64_t layer = 0; layer < model.layers; ++layer) dense |= !model.is_moe_layer(layer);
  if (dense) sizes.push_back({"ffn-hidden-size", model.ffn_hidden, ""});
  // Shared experts are whole on every rank.
  if (layout.expert_tensor && model.moe.router.experts > 0)
    sizes.push_back({"moe-ffn-hidden-size", model.moe.ffn_hidden, ""});
  std::erase_if(sizes, [](const Size& size) { return size.value <= 0; });
  return sizes;
}

void check_tensor(const ModelConfig& model, const ParallelLayout& layout, int world_size,
                  std::vector<Problem>& problems) {
  const std::vector<Size> sizes = sizes_cut_by_tensor(model, layout);
  // Query groups that are not given are as many as heads: named once.
  const bool same_heads = model.heads == model.kv_heads;
  std::int64_t common = world_size;
  for (const Size& size : sizes) common = std::gcd(common, size.value);
  for (const Size& size : sizes) {
    if (size.value % layout.tensor == 0) continue;
    if (same_heads && std::string_view(size.flag) == "num-query-groups") continue;
    problems.push_back(
        {size.flag,
         fmt::format("{}{} is not divisible by --tensor-model-parallel-size {}: tensor sizes that fit this "
                     "model on {} ranks are {}",
                     size.what, size.value, layout.tensor, world_size, divisors(common))});
    if (*size.what != '\0')
      problems.back().message += fmt::format(
          "; or pad to a multiple of {}, which makes another model: checkpoints of this one would not load",
          std::lcm(layout.tensor, std::int64_t{128}));
  }
}

void check_experts(const ModelConfig& model, const ParallelLayout& layout, int world_size,
                   std::vector<Problem>& problems) {
  const std::int64_t experts = model.moe.router.experts;
  if (experts == 0) {
    if (layout.expert > 1)
      problems.push_back({"expert-model-parallel-size",
                          fmt::format("{} needs experts and --num-experts is 0: use 1", layout.expert)});
    if (layout.expert_tensor)
      problems.push_back(
          {"enable-expert-tensor-parallelism", "needs experts and --num-experts is 0: leave the flag out"});
    return;
  }
  if (experts % layout.expert == 0) return;
  const std::int64_t holders = layout.expert_tensor ? world_size / layout.tensor : world_size;
  problems.push_back(
      {"expert-model-parallel-size",
       fmt::format("{} does not divide --num-experts {}: sizes that fit this model on {} ranks are {}",
                   layout.expert, experts, world_size, divisors(std::gcd(experts, holders)))});
}

}  // namespace

std::vector<Problem> layout_problems(const ParallelLayout& layout, int world_size) {
  std::vector<Problem> problems;
  // The text begins with its flag.
  const std::string text = layout_problem(layout, world_size);
  if (const std::size_t end = text.find(' '); end != std::string::npos)
    problems.push_back({text.substr(2, end - 2), text.substr(end + 1)});
  if (layout.expert_tensor && layout.tensor == 1)
    problems.push_back(
        {"enable-expert-tensor-parallelism",
         "cuts experts over tensor-parallel ranks, and --tensor-model-parallel-size is 1: give "
         "a larger one, or leave the flag out"});
  return problems;
}

std::vector<Problem> layout_problems(const ParallelConfig& parallel, int world_size) {
  const ParallelLayout& layout = parallel.layout;
  const std::int64_t size = parallel.expert_tensor_size;
  if (size <= 1 || size == layout.tensor) return layout_problems(layout, world_size);
  ParallelLayout rest = layout;
  rest.expert_tensor = false;
  std::vector<Problem> problems = layout_problems(rest, world_size);
  problems.push_back(
      {"expert-tensor-parallel-size",
       fmt::format("{} is neither 1 (experts whole, MoE blocks on parts of the sequence) nor "
                   "--tensor-model-parallel-size {} (experts cut, as by --enable-expert-tensor-parallelism): "
                   "use one of them",
                   size, layout.tensor)});
  return problems;
}

std::vector<Problem> model_layout_problems(const ModelConfig& resolved, const ParallelLayout& layout,
                                           int world_size) {
  std::vector<Problem> problems;
  if (layout.tensor < 1 || layout.expert < 1) return problems;
  // Of a layout that does not fit the ranks, only that is of interest.
  if (!layout_problem(layout, world_size).empty()) return problems;
  check_tensor(resolved, layout, world_size, problems);
  check_experts(resolved, layout, world_size, problems);
  return problems;
}

}  // namespace xmoe
