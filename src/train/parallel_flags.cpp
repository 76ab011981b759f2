// How a model is spread over ranks, and what is computed twice so that it fits.
#include <algorithm>
#include <charconv>

#include "base/error.h"
#include "train/flags.h"

namespace xmoe {

namespace {

// Names of a list, given apart or between commas.
std::vector<std::string> words_of(const std::vector<std::string>& given) {
  std::vector<std::string> words;
  for (const std::string& value : given) {
    for (std::size_t begin = 0; begin <= value.size();) {
      const std::size_t end = std::min(value.find(',', begin), value.size());
      if (end > begin) words.push_back(value.substr(begin, end - begin));
      begin = end + 1;
    }
  }
  return words;
}

std::string read_modules(const std::vector<std::string>& given, RecomputeConfig& recompute) {
  RecomputeConfig read = {.listed = true};
  for (const std::string& word : words_of(given)) {
    if (word == "attention" || word == "core_attn") {
      read.attention = true;
    } else if (word == "moe") {
      read.moe = true;
    } else if (word == "mlp") {
      read.mlp = true;
    } else if (word != "norm" && word != "layernorm") {  // outputs of norms are never kept
      return fmt::format("'{}' is not known: expected a list of attention, moe, mlp, norm", word);
    }
  }
  recompute = read;
  return {};
}

std::string show_modules(const RecomputeConfig& recompute) {
  std::string text;
  const auto add = [&](bool on, const char* name) {
    if (on) text += fmt::format("{}{}", text.empty() ? "" : ",", name);
  };
  add(recompute.attention, "attention");
  add(recompute.moe, "moe");
  add(recompute.mlp, "mlp");
  return text.empty() ? text : toml_string(text);
}

std::string read_granularity(const std::string& given, RecomputeConfig& recompute) {
  if (given == "full") {
    recompute = {.layer = true};
  } else if (given == "none") {
    recompute = {};
  } else if (given == "selective") {
    recompute.layer = false;
    if (!recompute.any() && !recompute.listed) recompute.attention = true;
  } else {
    return fmt::format("'{}' is not known: expected one of none|selective|full", given);
  }
  return {};
}

void add_recompute_switch(FlagTable& table, const char* names, RecomputeConfig& recompute,
                          const char* granularity, const std::string& help) {
  Flag flag;
  flag.arity = Arity::none;
  flag.help = help;
  flag.read = [&recompute, granularity](const std::vector<std::string>& given) {
    return given.front() == "true" ? read_granularity(granularity, recompute) : std::string();
  };
  table.add(names, std::move(flag));
}

}  // namespace

void add_layout_flags(FlagTable& table, ParallelLayout& layout, std::int64_t& ranks_per_node,
                      double& timeout_minutes) {
  table.group("Parallelism");
  table.integer("tensor-model-parallel-size", layout.tensor,
                "Consecutive ranks that share the matrices of attention and dense layers, and the tokens of "
                "a micro-batch. It divides the number of ranks, heads, query groups and the sequence length",
                at_least(1));
  table.integer("expert-model-parallel-size|moe-expert-parallel-size", layout.expert,
                "Ranks that together hold all experts; it divides the number of ranks and of experts. "
                "Groups span tensor- and data-parallel ranks: MoE blocks work on each rank's own part of "
                "the sequence",
                at_least(1));
  table.choice("expert-placement", layout.placement,
               {{"ep-first", ExpertPlacement::ep_first}, {"dp-first", ExpertPlacement::dp_first}},
               "Which ranks lie together. ep-first: those that hold all experts between them, so that tokens "
               "stay on a node where they can. dp-first: those that hold the same experts, so that experts' "
               "gradients stay there");
  table.set("enable-expert-tensor-parallelism", layout.expert_tensor, true,
            "Cut the experts' matrices over the tensor-parallel ranks, all of which then run the MoE blocks "
            "on all tokens (TED), instead of cutting the tokens");
  table.satisfied("sequence-parallel", Arity::none,
                  "with tensor parallelism the sequence is always cut between blocks");
  table.integer("ranks-per-node", ranks_per_node,
                "Take each run of so many consecutive ranks for a node; 0: ranks that share memory are one",
                at_least(0));
  table.real("distributed-timeout-minutes", timeout_minutes,
             "End the job, and say where it hangs, when a rank waits longer than this for the others",
             above(0));
}

namespace {

// Megatron's way to say whether experts are cut. That the size is 1 or the tensor size is found by
// validation, when both are known.
void add_expert_tensor_size(FlagTable& table, ParallelConfig& parallel) {
  Flag flag;
  flag.value_name = "N";
  flag.help =
      "1: experts are whole, and MoE blocks work on parts of the sequence. The tensor-parallel size: the "
      "same "
      "as --enable-expert-tensor-parallelism";
  flag.read = [&parallel](const std::vector<std::string>& given) -> std::string {
    const std::string& text = given.front();
    std::int64_t size = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), size);
    if (error != std::errc() || end != text.data() + text.size() || size < 1)
      return fmt::format("'{}' is not possible: expected 1 or the tensor-parallel size", text);
    parallel.expert_tensor_size = size;
    parallel.layout.expert_tensor = size > 1;
    return {};
  };
  table.add("expert-tensor-parallel-size", std::move(flag));
  table.conflict("enable-expert-tensor-parallelism", "expert-tensor-parallel-size", "1");
}

}  // namespace

void add_parallel_flags(FlagTable& table, ParallelConfig& parallel) {
  add_layout_flags(table, parallel.layout, parallel.ranks_per_node, parallel.timeout_minutes);
  add_expert_tensor_size(table, parallel);
  table.integer("zero-stage", parallel.zero_stage,
                "1: cut the optimizer's state (master weights and moments) over the ranks that hold the same "
                "parameters. 0: each of them keeps all of it",
                between(0, 1));
  table.set("use-distributed-optimizer", parallel.zero_stage, std::int64_t{1}, "The same as --zero-stage 1",
            false);
  table.conflict("use-distributed-optimizer", "zero-stage", "0");
}

void add_recompute_flags(FlagTable& table, RecomputeConfig& recompute) {
  table.group("Recomputation");
  Flag granularity;
  granularity.value_name = "none|selective|full";
  granularity.help =
      "What backward computes again instead of keeping it. full: layers, from their inputs. selective: the "
      "parts that --recompute-modules lists; without a list attention, as in Megatron. Never the choice of "
      "experts: a token goes where it went";
  granularity.read = [&recompute](const std::vector<std::string>& given) {
    return read_granularity(given.front(), recompute);
  };
  granularity.show = [&recompute] {
    return std::string(recompute.layer ? "\"full\"" : recompute.any() ? "\"selective\"" : "\"none\"");
  };
  table.add("recompute-granularity", std::move(granularity));

  Flag modules;
  modules.arity = Arity::many;
  modules.value_name = "NAME,...";
  modules.help =
      "Parts to compute again: attention (queries, keys, values and its output), moe (rows from other ranks, "
      "pre-activations of experts), mlp (pre-activations of dense layers and shared experts), norm (always "
      "computed again: accepted, changes nothing)";
  modules.read = [&recompute](const std::vector<std::string>& given) {
    return read_modules(given, recompute);
  };
  modules.show = [&recompute] { return show_modules(recompute); };
  table.add("recompute-modules", std::move(modules));
  table.conflict("recompute-modules", "recompute-granularity", "full");
  table.conflict("recompute-modules", "recompute-granularity", "none");

  add_recompute_switch(table, "recompute-activations", recompute, "selective",
                       "The same as --recompute-granularity selective");
  add_recompute_switch(table, "checkpoint-activations|deepspeed-activation-checkpointing", recompute, "full",
                       "The same as --recompute-granularity full");
  table.conflict("recompute-activations", "recompute-granularity", "full");
  table.conflict("recompute-activations", "recompute-granularity", "none");
  table.conflict("checkpoint-activations", "recompute-granularity", "selective");
  table.conflict("checkpoint-activations", "recompute-granularity", "none");
  table.conflict("checkpoint-activations", "recompute-modules");
  table.conflict("checkpoint-activations", "recompute-activations");
}

}  // namespace xmoe
