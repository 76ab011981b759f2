// What is missing, contradictory or does not fit, in one pass. Ranges of single values are checked where
// their flags are read and are assumed here only so far that nothing is divided by zero.
#include <filesystem>

#include "base/error.h"
#include "train/config.h"
#include "train/schedule.h"

namespace xmoe {

namespace {

class Problems {
 public:
  template <typename... Args>
  void add(const char* flag, fmt::format_string<Args...> format, Args&&... args) {
    found_.push_back({flag, fmt::format(format, std::forward<Args>(args)...)});
  }
  void add(Problem problem) { found_.push_back(std::move(problem)); }
  std::vector<Problem> take() { return std::move(found_); }

 private:
  std::vector<Problem> found_;
};

void check_model(const ModelConfig& model, Problems& problems) {
  if (model.layers == 0) problems.add("num-layers", "is missing: give the number of layers");
  if (model.hidden == 0) problems.add("hidden-size", "is missing: give the width of the model");
  if (model.heads == 0) problems.add("num-attention-heads", "is missing: give the number of attention heads");
  if (model.seq_length == 0) problems.add("seq-length", "is missing: give the tokens of a sequence");

  if (model.heads > 0 && model.kv_heads > 0 && model.heads % model.kv_heads != 0)
    problems.add("num-query-groups", "{} does not divide the {} attention heads: use a divisor",
                 model.kv_heads, model.heads);
  const bool derived = model.head_dim == 0 && model.heads > 0;
  if (derived && model.hidden % model.heads != 0) {
    problems.add("num-attention-heads",
                 "{} does not divide --hidden-size {}: use a divisor, or give --kv-channels", model.heads,
                 model.hidden);
    return;
  }
  const std::int64_t head_dim = derived ? model.hidden / model.heads : model.head_dim;
  if (head_dim % 2 != 0) problems.add("kv-channels", "is {}: rotary positions need an even width", head_dim);
}

void check_moe(const ModelConfig& model, Problems& problems) {
  const RouterConfig& router = model.moe.router;
  if (router.experts == 0) {
    if (model.moe.shared_ffn_hidden > 0)
      problems.add("moe-shared-expert-intermediate-size",
                   "is set but --num-experts is 0: give experts, or leave it out");
    return;
  }
  if (router.top_k > router.experts)
    problems.add("moe-router-topk", "{} is more than the {} experts: use at most {}", router.top_k,
                 router.experts, router.experts);
  if (model.layers > 0 && model.first_k_dense >= model.layers)
    problems.add("moe-first-k-dense", "{} leaves no MoE layer of {}: use at most {}, or --num-experts 0",
                 model.first_k_dense, model.layers, model.layers - 1);
  else if (model.layers > 0 && model.first_k_dense + model.moe_layer_freq > model.layers)
    problems.add("moe-layer-freq",
                 "{} leaves no MoE layer among the {} behind the dense ones: use at most that",
                 model.moe_layer_freq, model.layers - model.first_k_dense);
  if (router.groups > 0 && router.experts % router.groups != 0) {
    problems.add("moe-router-num-groups", "{} does not divide the {} experts: use a divisor", router.groups,
                 router.experts);
  } else if (router.topk_groups > router.groups) {
    problems.add("moe-router-group-topk", "{} is more than the {} groups: use at most {}", router.topk_groups,
                 router.groups, router.groups);
  } else if (router.groups > 0 && router.top_k <= router.experts &&
             router.top_k > router.topk_groups * (router.experts / router.groups)) {
    problems.add(
        "moe-router-group-topk",
        "{} groups of {} experts hold fewer than the {} experts of --moe-router-topk: use at least {}",
        router.topk_groups, router.experts / router.groups, router.top_k,
        (router.top_k * router.groups + router.experts - 1) / router.experts);
  }
  if (router.score_function == ScoreFunction::sigmoid && router.pre_softmax)
    problems.add("moe-router-pre-softmax",
                 "contradicts --moe-router-score-function sigmoid: give one of them");
  if (model.moe.dispatcher == DispatcherKind::padded && !model.moe.capacity_factor)
    problems.add("moe-dispatcher",
                 "padded needs a capacity: add --moe-expert-capacity-factor 1.25, or use flat");
  if (model.moe.dispatcher == DispatcherKind::padded && model.moe.overlap_chunks > 1)
    problems.add("moe-overlap-chunks",
                 "{} needs a dispatcher other than padded, whose buffers have room for the tokens of a whole "
                 "micro-batch: use --moe-dispatcher flat or rbd, or one chunk",
                 model.moe.overlap_chunks);
}

template <typename Layout>
void check_layout(const Layout& layout, int world_size, Problems& problems) {
  for (Problem& problem : layout_problems(layout, world_size)) problems.add(std::move(problem));
}

void check_recompute(const RecomputeConfig& recompute, Problems& problems) {
  if (recompute.layer && (recompute.attention || recompute.moe || recompute.mlp))
    problems.add("recompute-modules",
                 "are parts of what --recompute-granularity full computes again: give one of them");
}

void check_batch(const TrainConfig& config, int world_size, Problems& problems) {
  const BatchConfig& batch = config.batch;
  const std::int64_t workers = data_parallel_size(config.parallel.layout, world_size);
  const std::int64_t step = batch.micro * workers;
  if (batch.global > 0 && step > 0 && batch.global % step != 0)
    problems.add("global-batch-size",
                 "{} is not a multiple of --micro-batch-size {} * {} data-parallel {} = {}: use for instance "
                 "{}",
                 batch.global, batch.micro, workers, workers == world_size ? "ranks" : "groups of ranks",
                 step, (batch.global / step + 1) * step);
  if (batch.train_iterations == 0 && batch.train_samples == 0 && batch.train_tokens == 0)
    problems.add("train-iters", "is missing: give --train-iters, --train-samples or --train-tokens");
}

// Counted in this run, which has all iterations of the training at most.
void check_trace(const TrainConfig& resolved, Problems& problems) {
  const LoggingConfig& logging = resolved.logging;
  const std::int64_t iterations = resolved.batch.train_iterations;
  if (!logging.trace.empty() && logging.trace_begin > iterations)
    problems.add("trace-begin", "{} is behind the end of the training, iteration {}: use at most that",
                 logging.trace_begin, iterations);
}

void check_schedule(const TrainConfig& config, int world_size, Problems& problems) {
  const OptimizerConfig& optimizer = config.optimizer;
  if (optimizer.learning_rate == 0.0)
    problems.add("lr", "is missing: give the learning rate, for instance --lr 1e-3");
  if (optimizer.min_learning_rate > optimizer.learning_rate && optimizer.learning_rate > 0.0)
    problems.add("min-lr", "{} is above --lr {}: use less", optimizer.min_learning_rate,
                 optimizer.learning_rate);
  if ((optimizer.decay_iterations > 0) + (optimizer.decay_samples > 0) + (optimizer.decay_tokens > 0) > 1)
    problems.add("lr-decay-iters",
                 "is one of several lengths of the decay that are given (iters, samples, tokens): keep one");
  if ((optimizer.warmup_iterations > 0) + (optimizer.warmup_samples > 0) + (optimizer.warmup_tokens > 0) +
          (optimizer.warmup_fraction.value_or(0.0) > 0.0) >
      1)
    problems.add("lr-warmup-iters",
                 "is one of several lengths of the warm-up that are given (iters, samples, tokens, "
                 "fraction): keep one");

  // A warm-up that does not end before the decay or the training does.
  TrainConfig resolved = config;
  if (config.model.seq_length <= 0 || config.batch.micro <= 0 || config.batch.global < 0) return;
  resolved.resolve(world_size);
  if (resolved.batch.train_iterations <= 0) {
    if (config.batch.train_iterations + config.batch.train_samples + config.batch.train_tokens > 0)
      problems.add("train-samples",
                   "or --train-tokens is less than one global batch of {} sequences of {} tokens: use more",
                   resolved.batch.global, resolved.model.seq_length);
    return;
  }
  check_trace(resolved, problems);
  const Lengths lengths = lengths_in_samples(resolved);
  const std::int64_t training = resolved.batch.train_iterations * resolved.batch.global;
  if (lengths.warmup > training)
    problems.add(
        "lr-warmup-iters",
        "or another unit makes the warm-up {} samples long, longer than the training of {}: shorten it",
        lengths.warmup, training);
  else if (optimizer.decay_style != DecayStyle::constant && lengths.warmup > lengths.decay)
    problems.add(
        "lr-decay-iters",
        "or another unit ends the decay at {} samples, before the warm-up at {}: shorten the warm-up",
        lengths.decay, lengths.warmup);
}

void check_gradients(const TrainConfig& config, Problems& problems) {
  if (config.model.expert_gradients != DType::bf16) return;
  if (config.compute_dtype != DType::bf16)
    problems.add("main-grads-dtype", "bf16 is of --bf16, and training is in {}: leave it out, or add --bf16",
                 config.compute_dtype == DType::f16 ? "fp16" : "fp32");
  else if (config.model.moe.router.experts == 0)
    problems.add("main-grads-dtype", "bf16 is of experts' gradients, and the model has none: leave it out");
}

void check_loss_scale(const TrainConfig& config, Problems& problems) {
  const LossScaleConfig& scale = config.loss_scale;
  if (config.compute_dtype != DType::f16) {
    if (scale.constant > 0.0)
      problems.add("loss-scale", "is of --fp16, and training is in {}: leave it out, or add --fp16",
                   config.compute_dtype == DType::bf16 ? "bf16" : "fp32");
    return;
  }
  if (scale.minimum > scale.initial)
    problems.add("min-loss-scale", "{} is above --initial-loss-scale {}: use at most that", scale.minimum,
                 scale.initial);
}

void check_sources(const std::vector<DataSource>& sources, Problems& problems) {
  if (sources.empty())
    problems.add("data-path", "is missing: give the prefix of a data set that `xmoe data prepare` wrote");
  for (const DataSource& source : sources) {
    for (const char* extension : {".bin", ".idx"}) {
      std::error_code error;
      if (!std::filesystem::exists(source.prefix + extension, error))
        problems.add("data-path", "needs {}{}, which does not exist: give the prefix of a .bin and .idx pair",
                     source.prefix, extension);
    }
  }
}

void check_file(const char* flag, const std::filesystem::path& path, Problems& problems) {
  std::error_code error;
  if (!path.empty() && !std::filesystem::exists(path, error))
    problems.add(flag, "{} does not exist", path.string());
}

}  // namespace

std::vector<Problem> validate(const TrainConfig& config, int world_size) {
  Problems problems;
  check_model(config.model, problems);
  check_moe(config.model, problems);
  check_layout(config.parallel, world_size, problems);
  check_recompute(config.model.recompute, problems);
  ModelConfig resolved = config.model;
  resolved.resolve();
  for (Problem& problem : model_layout_problems(resolved, config.parallel.layout, world_size))
    problems.add(std::move(problem));
  check_batch(config, world_size, problems);
  check_schedule(config, world_size, problems);
  check_gradients(config, problems);
  check_loss_scale(config, problems);
  check_sources(config.data.sources, problems);
  check_file("tokenizer", config.data.tokenizer, problems);
  if (config.data.tokenizer.empty() && config.data.vocab_size == 0)
    problems.add("tokenizer",
                 "is missing: give tokenizer.json, or --vocab-size for data that is tokens already");
  if (config.checkpoint.save.empty() && config.checkpoint.save_interval > 0)
    problems.add("save-interval", "is set but --save is not: give the directory");
  if (config.checkpoint.finetune && config.checkpoint.load.empty())
    problems.add("finetune", "needs --load: give the directory of a checkpoint");
  return problems.take();
}

std::vector<Problem> validate(const EvalConfig& config, int world_size) {
  Problems problems;
  if (config.load.empty()) problems.add("load", "is missing: give the directory of a checkpoint");
  check_file("load", config.load, problems);
  check_sources(config.sources, problems);
  check_file("tokenizer", config.tokenizer, problems);
  check_layout(config.layout, world_size, problems);
  return problems.take();
}

std::vector<Problem> validate(const GenerateConfig& config, int world_size) {
  Problems problems;
  if (config.load.empty()) problems.add("load", "is missing: give the directory of a checkpoint");
  check_file("load", config.load, problems);
  check_file("tokenizer", config.tokenizer, problems);
  check_layout(config.layout, world_size, problems);
  return problems.take();
}

}  // namespace xmoe
