#include "train/flags.h"

namespace xmoe {

void add_batch_flags(FlagTable& table, BatchConfig& batch) {
  table.group("Batch and length");
  table.integer("micro-batch-size", batch.micro,
                "Sequences of one forward pass of one data-parallel worker (a rank, or the ranks of a "
                "tensor-parallel group)",
                at_least(1));
  table.integer("global-batch-size", batch.global,
                "Sequences of one optimizer step; 0: micro-batch size * data-parallel workers", at_least(0));
  table.integer("train-iters", batch.train_iterations,
                "Optimizer steps. The shortest length given counts; 0: not given", at_least(0));
  table.integer("train-samples", batch.train_samples, "Sequences to train on", at_least(0));
  table.integer("train-tokens", batch.train_tokens, "Tokens to train on", at_least(0));
}

void add_optimizer_flags(FlagTable& table, OptimizerConfig& optimizer, DType& expert_gradients) {
  table.group("Optimizer");
  table.only("optimizer", {"adam"}, "AdamW is the optimizer");
  table.real("lr", optimizer.learning_rate, "Peak of the learning rate", above(0));
  table.real("min-lr", optimizer.min_learning_rate, "Learning rate at the end of the decay", at_least(0));
  table.choice(
      "lr-decay-style", optimizer.decay_style,
      {{"constant", DecayStyle::constant}, {"linear", DecayStyle::linear}, {"cosine", DecayStyle::cosine}},
      "Course of the learning rate behind the warm-up");
  table.integer("lr-decay-iters", optimizer.decay_iterations,
                "Iterations until the minimum, warm-up included; 0: the whole training", at_least(0));
  table.integer("lr-decay-samples", optimizer.decay_samples, "The same in sequences", at_least(0));
  table.integer("lr-decay-tokens", optimizer.decay_tokens, "The same in tokens", at_least(0));
  table.real("lr-warmup-init", optimizer.init_learning_rate, "Learning rate at the start of the warm-up",
             at_least(0));
  table.integer("lr-warmup-iters", optimizer.warmup_iterations, "Iterations of the linear warm-up",
                at_least(0));
  table.integer("lr-warmup-samples", optimizer.warmup_samples, "The same in sequences", at_least(0));
  table.integer("lr-warmup-tokens", optimizer.warmup_tokens, "The same in tokens", at_least(0));
  table.real("lr-warmup-fraction", optimizer.warmup_fraction, "The same as a share of the decay's length",
             from_up_to(0, 1));
  table.real("weight-decay", optimizer.weight_decay, "Decoupled weight decay; norms and biases have none",
             at_least(0));
  table.real("adam-beta1", optimizer.beta1, "Decay of the first moment", from_up_to(0, 1));
  table.real("adam-beta2", optimizer.beta2, "Decay of the second moment", from_up_to(0, 1));
  table.real("adam-eps", optimizer.epsilon, "Added to the root of the second moment", above(0));
  const std::vector<std::pair<std::string, DType>> dtypes = {{"fp32", DType::f32}, {"bf16", DType::bf16}};
  table.choice("main-grads-dtype", expert_gradients, dtypes,
               "In what the gradients of the experts' weights are summed over micro-batches and ranks; all "
               "others are in fp32. bf16, which needs --bf16, takes 2 bytes a parameter instead of 4");
  table.choice(
      "exp-avg-dtype", optimizer.exp_avg_dtype, dtypes,
      "In what the first moment is held. bf16 takes 2 bytes a parameter instead of 4; it is rounded by "
      "chance, so that small steps count on average");
  table.choice("exp-avg-sq-dtype", optimizer.exp_avg_sq_dtype, dtypes,
               "In what the second moment is held; likewise");
  table.real("clip-grad", optimizer.clip_grad, "Largest global norm of the gradient; 0: no clipping",
             at_least(0));
}

}  // namespace xmoe
