// Flags of Megatron's and X-MoE's launch scripts that are no settings here. A flag is accepted only when what
// it asks for is what this system does; the others are refused by name with the reason, so that a script
// never trains something else than it says.
#include "train/flags.h"

namespace xmoe {

void add_compatibility_flags(FlagTable& table) {
  table.group("For scripts of Megatron and X-MoE");
  table.satisfied("use-mcore-models", Arity::none, "there is one implementation of the model");
  table.satisfied("disable-bias-linear", Arity::none, "linear layers have no bias");
  table.satisfied("use-rotary-position-embeddings", Arity::none, "positions are rotary");
  table.only("position-embedding-type", {"rope"}, "positions are rotary");
  table.only("rotary-percent", {"1.0", "1"}, "whole heads are rotated");
  table.satisfied("max-position-embeddings", Arity::one, "rotary positions have no table to be sized");
  table.satisfied("use-flash-attn|use-flash-attn-v2", Arity::none,
                  "attention never holds the square of scores");
  table.satisfied("attention-softmax-in-fp32", Arity::none, "softmax is computed in fp32");
  table.only("recompute-method", {"uniform"}, "what is computed again is so in every layer alike");
  table.only("recompute-num-layers", {"1"}, "each layer is computed again from its own input");
  for (const char* name : {"recompute-method", "recompute-num-layers"})
    for (const char* granularity : {"selective", "none"})
      table.conflict(name, "recompute-granularity", granularity);
  table.satisfied("overlap-grad-reduce", Arity::none, "gradients always travel while backward goes on");
  table.satisfied("overlap-param-gather", Arity::none,
                  "with --zero-stage 1 new values of a bucket always travel while the next one is updated");
  table.satisfied("accumulate-allreduce-grads-in-fp32", Arity::none,
                  "gradients are summed in fp32, but for what --main-grads-dtype says");
  table.conflict("accumulate-allreduce-grads-in-fp32", "main-grads-dtype", "bf16");
  table.satisfied("use-precision-aware-optimizer", Arity::none,
                  "--exp-avg-dtype and --exp-avg-sq-dtype stand for themselves, and fp32 masters of 16-bit "
                  "parameters are always held as 16-bit remainders");
  table.only("main-params-dtype", {"fp32"}, "masters are exact in fp32");
  table.only("attention-dropout", {"0", "0.0"}, "there is no dropout");
  table.only("hidden-dropout", {"0", "0.0"}, "there is no dropout");
  table.satisfied("moe-grouped-gemm", Arity::none, "experts always run as one grouped product");
  table.satisfied("create-moe-param-group", Arity::none,
                  "experts' gradients are always reduced over their replicas");
  table.only("moe-router-dtype", {"fp32"}, "the router is fp32");
  table.only("moe-token-dispatcher-type", {"alltoall"},
             "tokens travel by all-to-all; --moe-dispatcher chooses its kind");
  table.only("moe-token-drop-policy", {"probs"}, "the assignments of highest probability are kept");
  table.only("moe-router-load-balancing-type", {"aux_loss"},
             "--moe-aux-loss-coeff sets the auxiliary loss and 0 turns it off; "
             "--moe-router-enable-expert-bias balances without it");
  table.only("data-impl", {"mmap"}, "data sets are memory-mapped");
  table.only("tokenizer-type", {"HuggingFaceTokenizer"}, "--tokenizer names a tokenizer.json");
  table.satisfied("log-throughput", Arity::none, "the log always shows it");
  table.satisfied("no-pipeline-parallel", Arity::none, "there is no pipeline parallelism");

  const auto only_one = [&](std::string_view names) { table.only(names, {"1"}, "not built yet"); };
  only_one("pipeline-model-parallel-size");
  only_one("context-parallel-size");
  table.refused("use-tutel", Arity::none, "another system's kernels; use --moe-dispatcher flat");
  table.refused("fp16-lm-cross-entropy", Arity::none, "the loss is computed in fp32; leave the flag out");
  table.refused("moe-eval-capacity-factor", Arity::one, "evaluation drops nothing; leave the flag out");
  table.refused("add-qkv-bias", Arity::none, "linear layers have no bias; leave the flag out");
  table.refused("vocab-file|merge-file", Arity::one,
                "name the folder with vocab.json and merges.txt: --tokenizer DIR");
  table.refused("tensorboard-dir", Arity::one, "not built yet; use --metrics-file");
  table.refused("deepspeed", Arity::none, "settings come from flags and --config alone; leave the flag out");
  table.refused("deepspeed_config", Arity::one,
                "settings come from flags and --config alone; leave the flag out");
  table.refused("num-workers", Arity::one,
                "batches are read by the training process itself; leave the flag out");
}

}  // namespace xmoe
