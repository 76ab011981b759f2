// What a run consists of: the settings of `xmoe train`, `xmoe eval` and `xmoe generate`. Flag names in
// trailing comments; the flags themselves are declared in *_flags.cpp beside this file.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "comm/device_communicator.h"
#include "comm/mesh.h"
#include "device/device.h"
#include "model/config.h"

namespace xmoe {

// One indexed data set (prefix.bin, prefix.idx) of a blend.
struct DataSource {
  double weight = 1.0;
  std::string prefix;
};

struct DataConfig {
  std::vector<DataSource> sources;                   // --data-path [WEIGHT] PREFIX ...
  std::array<double, 3> split = {969.0, 30.0, 1.0};  // --split: shares of train, validation, test
  std::filesystem::path tokenizer;                   // --tokenizer
  std::int64_t vocab_size = 0;                       // --vocab-size: without a tokenizer; 0: the tokenizer's
  std::int64_t vocab_multiple = 128;                 // --make-vocab-size-divisible-by
};

// --device cpu|cuda[:INDEX]
struct DeviceConfig {
  Device::Kind kind = Device::Kind::cpu;
  std::optional<std::int64_t> index;            // unset: the ranks of a machine take its GPUs in turn
  DeviceBackend backend = DeviceBackend::nccl;  // --distributed-backend: between GPUs
};

enum class DecayStyle : std::uint8_t { constant, linear, cosine };

// Lengths are in one of several units; of each group at most one is set.
struct OptimizerConfig {
  double learning_rate = 0.0;                   // --lr
  double min_learning_rate = 0.0;               // --min-lr
  double init_learning_rate = 0.0;              // --lr-warmup-init: where the warm-up starts
  DecayStyle decay_style = DecayStyle::linear;  // --lr-decay-style
  std::int64_t decay_iterations = 0;            // --lr-decay-iters; 0 in all three: the whole training
  std::int64_t decay_samples = 0;               // --lr-decay-samples
  std::int64_t decay_tokens = 0;                // --lr-decay-tokens
  std::int64_t warmup_iterations = 0;           // --lr-warmup-iters
  std::int64_t warmup_samples = 0;              // --lr-warmup-samples
  std::int64_t warmup_tokens = 0;               // --lr-warmup-tokens
  std::optional<double> warmup_fraction;        // --lr-warmup-fraction: of the decay length
  double weight_decay = 0.01;                   // --weight-decay
  double beta1 = 0.9;                           // --adam-beta1
  double beta2 = 0.999;                         // --adam-beta2
  double epsilon = 1e-8;                        // --adam-eps
  double clip_grad = 1.0;                       // --clip-grad: global norm; 0: no clipping
  DType exp_avg_dtype = DType::f32;             // --exp-avg-dtype: in which the first moment is held
  DType exp_avg_sq_dtype = DType::f32;          // --exp-avg-sq-dtype: the second
  std::uint64_t rounding_seed = 0;              // of bf16 moments' rounding; resolve() takes it from --seed
};

// Of f16, in which small gradients vanish and large ones overflow (loss_scaler.h).
struct LossScaleConfig {
  double constant = 0.0;        // --loss-scale; 0: dynamic, by the others
  double initial = 0x1p32;      // --initial-loss-scale
  double minimum = 1.0;         // --min-loss-scale
  std::int64_t window = 1000;   // --loss-scale-window: iterations without overflow until the scale doubles
  std::int64_t hysteresis = 2;  // --hysteresis: overflows until it falls
};

struct BatchConfig {
  std::int64_t micro = 1;   // --micro-batch-size: sequences of one forward of one data-parallel worker
  std::int64_t global = 0;  // --global-batch-size: sequences of one optimizer step; 0: micro * workers
  // The shortest of three counts; resolve() leaves this one.
  std::int64_t train_iterations = 0;  // --train-iters
  std::int64_t train_samples = 0;     // --train-samples
  std::int64_t train_tokens = 0;      // --train-tokens
};

struct ParallelConfig {
  ParallelLayout layout;
  // --expert-tensor-parallel-size: 1 or the tensor size, another way to say layout.expert_tensor; 0: not
  // given
  std::int64_t expert_tensor_size = 0;
  std::int64_t zero_stage = 0;      // --zero-stage: 1 shards the optimizer over the replicas of a parameter
  std::int64_t ranks_per_node = 0;  // --ranks-per-node; 0: ranks that share memory
  double timeout_minutes = 10.0;    // --distributed-timeout-minutes: of one collective
};

// Workers that read samples of their own: tp groups, or ranks without tensor parallelism. 1 at least, also
// for a layout that does not fit.
std::int64_t data_parallel_size(const ParallelLayout& layout, int world_size);

struct LoggingConfig {
  std::int64_t interval = 100;         // --log-interval: iterations
  std::filesystem::path metrics_file;  // --metrics-file: JSON lines; empty: none
  bool wall_clock_breakdown = false;   // --wall-clock-breakdown
  std::filesystem::path trace;         // --trace: Chrome trace of some iterations; empty: none
  std::int64_t trace_begin = 3;        // --trace-begin: first iteration traced, counted from 1 in this run
  std::int64_t trace_iterations = 2;   // --trace-iters
};

struct ValidationConfig {
  std::int64_t interval = 1000;   // --eval-interval: iterations; 0: only at the end
  std::int64_t iterations = 100;  // --eval-iters: global batches per evaluation; 0: no evaluation
};

struct CheckpointConfig {
  std::filesystem::path save;      // --save; empty: nothing is saved
  std::filesystem::path load;      // --load; empty: start from nothing
  std::int64_t save_interval = 0;  // --save-interval: iterations; 0: only at the end
  std::int64_t keep_last = 0;      // --keep-last-checkpoints; 0: all
  bool load_optimizer = true;      // --no-load-optim clears it: weights only
  bool finetune = false;           // --finetune: weights only, and the iteration count starts at 0
};

struct ExitConfig {
  std::int64_t interval = 0;       // --exit-interval: exit after an iteration divisible by this; 0: never
  double duration_in_minutes = 0;  // --exit-duration-in-mins; 0: never
};

struct TrainConfig {
  ModelConfig model;
  DataConfig data;
  DeviceConfig device;
  ParallelConfig parallel;
  BatchConfig batch;
  OptimizerConfig optimizer;
  // f32 unless asked: exact, and the faster of the two where a CPU has no bf16 units.
  DType compute_dtype = DType::f32;  // --bf16, --fp16
  LossScaleConfig loss_scale;        // has no effect but in f16
  LoggingConfig logging;
  ValidationConfig validation;
  CheckpointConfig checkpoint;
  ExitConfig exit;
  std::uint64_t seed = 1234;  // --seed: of the initial weights and of the order of the data

  // Fills in what is derived: the model's sizes, the global batch, the training length in iterations. Call
  // after validate() has found nothing; a second call changes nothing. The vocabulary is that of
  // data.vocab_size; where that is 0 the caller fills it in from the tokenizer first.
  void resolve(int world_size);
  std::int64_t micro_batches(int world_size) const {
    return batch.global / (batch.micro * data_parallel_size(parallel.layout, world_size));
  }
};

// Which part of a data set: the split of training, or all of it.
enum class DataPart : std::uint8_t { train, validation, test, all };

struct EvalConfig {
  std::filesystem::path load;       // --load
  std::int64_t iteration = -1;      // --iteration: of the checkpoint; -1: the latest
  std::vector<DataSource> sources;  // --data-path
  std::filesystem::path tokenizer;  // --tokenizer; empty: the one that the checkpoint was trained with
  DataPart part = DataPart::all;    // --part
  std::optional<std::array<double, 3>> split;  // --split; unset: that of the training
  std::int64_t micro_batch = 4;                // --micro-batch-size
  std::int64_t iterations = 0;  // --eval-iters: batches of micro * workers sequences; 0: the whole part
  DeviceConfig device;
  ParallelLayout layout;
  std::int64_t ranks_per_node = 0;     // --ranks-per-node
  double timeout_minutes = 10.0;       // --distributed-timeout-minutes
  std::optional<DType> compute_dtype;  // --bf16, --fp16, --fp32; unset: that of the training
  std::filesystem::path output;        // --output: the result as JSON; empty: only printed
};

struct GenerateConfig {
  std::filesystem::path load;         // --load
  std::int64_t iteration = -1;        // --iteration: of the checkpoint; -1: the latest
  std::filesystem::path tokenizer;    // --tokenizer; empty: the one that the checkpoint was trained with
  std::optional<std::string> prompt;  // --prompt; unset: read from standard input
  std::int64_t max_new_tokens = 200;  // --max-new-tokens
  std::int64_t samples = 1;           // --num-samples: continuations of the prompt
  double temperature = 1.0;           // --temperature; 0: the most likely token each time
  std::int64_t top_k = 0;             // --top-k; 0: no limit
  double top_p = 1.0;                 // --top-p
  std::uint64_t seed = 1234;          // --seed
  DeviceConfig device;
  ParallelLayout layout;
  std::int64_t ranks_per_node = 0;     // --ranks-per-node
  double timeout_minutes = 10.0;       // --distributed-timeout-minutes
  std::optional<DType> compute_dtype;  // --bf16, --fp16, --fp32; unset: that of the training
};

// Everything that is contradictory, missing or out of range in a configuration for `world_size` ranks. `flag`
// is the one to change.
struct Problem {
  std::string flag;
  std::string message;  // what was found, what was expected, what to do
  bool is_flag = true;  // false: `flag` is an argument that is no flag
};
std::vector<Problem> validate(const TrainConfig& config, int world_size);
std::vector<Problem> validate(const EvalConfig& config, int world_size);
std::vector<Problem> validate(const GenerateConfig& config, int world_size);

// What keeps a layout from fitting so many ranks, with the sizes that fit.
std::vector<Problem> layout_problems(const ParallelLayout& layout, int world_size);
std::vector<Problem> layout_problems(const ParallelConfig& parallel, int world_size);
// What keeps a model from being cut as the layout asks, with the sizes that fit. What is 0 (a vocabulary that
// is not known yet) is not checked. Empty also when the layout does not fit the number of ranks: that is
// layout_problem()'s.
std::vector<Problem> model_layout_problems(const ModelConfig& resolved, const ParallelLayout& layout,
                                           int world_size);

// Rows of the embedding for `size` tokens: the next multiple, so that matrix products meet no ragged edge.
std::int64_t padded_vocabulary(std::int64_t size, std::int64_t multiple);

}  // namespace xmoe
