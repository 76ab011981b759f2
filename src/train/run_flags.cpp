#include "train/flags.h"

#include <charconv>

namespace xmoe {

namespace {

void add_precision_conflicts(FlagTable& table) {
  table.conflict("bf16", "fp16");
  table.conflict("bf16", "fp32");
  table.conflict("fp16", "fp32");
}

// For eval and generate: a precision of their own, or that of the training.
void add_precision_flags(FlagTable& table, std::optional<DType>& dtype) {
  table.set("bf16", dtype, std::optional<DType>(DType::bf16), "Compute in bf16; unset: as in the training");
  table.set("fp16", dtype, std::optional<DType>(DType::f16), "Compute in fp16; unset: as in the training");
  table.set("fp32", dtype, std::optional<DType>(DType::f32), "Compute in fp32; unset: as in the training");
  add_precision_conflicts(table);
}

void add_loss_scale_flags(FlagTable& table, LossScaleConfig& scale) {
  table.real(
      "loss-scale", scale.constant,
      "Of --fp16: a constant scale of the loss, a power of two for gradients to be exact. 0: dynamic, by "
      "the four below",
      at_least(0));
  table.real("initial-loss-scale", scale.initial,
             "Where the dynamic scale starts: high, since it finds its place within some skipped iterations",
             above(0));
  table.real("min-loss-scale", scale.minimum, "What the dynamic scale does not fall below", above(0));
  table.integer("loss-scale-window", scale.window,
                "Iterations without overflow that double the dynamic scale", at_least(1));
  table.integer("hysteresis", scale.hysteresis,
                "The overflow at which the dynamic scale is halved, as it is at all that follow; counted "
                "anew when it doubles",
                at_least(1));
}

std::string read_device(const std::string& given, DeviceConfig& device) {
  const std::size_t colon = given.find(':');
  const std::string kind = given.substr(0, colon);
  DeviceConfig read;
  read.kind = kind == "cpu" ? Device::Kind::cpu : Device::Kind::gpu;
  bool good = (kind == "cpu" && colon == std::string::npos) || kind == "cuda";
  if (good && colon != std::string::npos) {
    std::int64_t index = 0;
    const char* end = given.data() + given.size();
    const auto [stopped, error] = std::from_chars(given.data() + colon + 1, end, index);
    good = error == std::errc() && stopped == end && 0 <= index && index < 1024;
    read.index = index;
  }
  if (!good)
    return fmt::format("'{}' is not known: expected cpu, cuda, or cuda:INDEX for one certain GPU", given);
  read.backend = device.backend;
  device = read;
  return {};
}

}  // namespace

void add_device_flag(FlagTable& table, DeviceConfig& device) {
  Flag flag;
  flag.value_name = "cpu|cuda[:INDEX]";
  flag.help =
      "Where the model is and runs. cuda: NVIDIA GPUs, of which the ranks of a machine take one each in turn "
      "(needs the binary of `make cuda`)";
  flag.read = [&device](const std::vector<std::string>& given) { return read_device(given.front(), device); };
  flag.show = [&device] {
    if (device.kind == Device::Kind::cpu) return std::string("\"cpu\"");
    return device.index ? fmt::format("\"cuda:{}\"", *device.index) : std::string("\"cuda\"");
  };
  table.add("device", std::move(flag));
  table.choice(
      "distributed-backend", device.backend,
      {{"nccl", DeviceBackend::nccl}, {"staged", DeviceBackend::staged}},
      "How GPUs exchange tensors. nccl: from one to the other. staged: through the host's memory and "
      "what connects the hosts; where NCCL cannot be had");
}

void add_run_flags(FlagTable& table, TrainConfig& config) {
  add_parallel_flags(table, config.parallel);
  add_recompute_flags(table, config.model.recompute);

  table.group("Device and precision");
  add_device_flag(table, config.device);
  table.set("bf16", config.compute_dtype, DType::bf16,
            "Compute in bf16 with fp32 master weights, each held as the bf16 value and 16 bits more; router, "
            "softmax, norms and loss stay fp32. Without "
            "it: fp32");
  table.set("fp16", config.compute_dtype, DType::f16,
            "The same in fp16, with the loss scaled so that gradients neither vanish nor overflow");
  table.set("fp32", config.compute_dtype, DType::f32, "Compute in fp32 (the default)", false);
  add_precision_conflicts(table);
  add_loss_scale_flags(table, config.loss_scale);
  table.seed("seed", config.seed, "Of the initial weights and of the order of the data");

  table.group("Logging");
  table.integer("log-interval", config.logging.interval, "Iterations between two lines of the log",
                at_least(1));
  table.path("metrics-file", config.logging.metrics_file, "FILE", "Append the metrics as JSON lines");
  table.set("wall-clock-breakdown", config.logging.wall_clock_breakdown, true,
            "Behind each line of the log, a table of where the time of a step went, layer by layer, and the "
            "bytes that were sent inside nodes and between them; the same in the metrics file");
  table.path("trace", config.logging.trace, "FILE",
             "Write a timeline of some iterations with a track for every rank, as JSON for ui.perfetto.dev "
             "or chrome://tracing");
  table.integer("trace-begin", config.logging.trace_begin,
                "First iteration in the trace, counted from 1 in this run; the first ones still warm up",
                at_least(1));
  table.integer("trace-iters", config.logging.trace_iterations, "Iterations in the trace", at_least(1));

  table.group("Evaluation");
  table.integer("eval-interval", config.validation.interval,
                "Iterations between two evaluations; 0: only at the end", at_least(0));
  table.integer("eval-iters", config.validation.iterations,
                "Global batches of an evaluation; 0: no evaluation", at_least(0));

  table.group("Checkpoint");
  CheckpointConfig& checkpoint = config.checkpoint;
  table.path("save", checkpoint.save, "DIR", "Directory that checkpoints are written to");
  table.path("load", checkpoint.load, "DIR",
             "Directory whose latest checkpoint is resumed; without one there training starts anew");
  table.integer("save-interval", checkpoint.save_interval,
                "Iterations between two checkpoints; 0: only at the end", at_least(0));
  table.integer("keep-last-checkpoints", checkpoint.keep_last,
                "Older checkpoints are deleted; 0: all are kept", at_least(0));
  table.set("no-load-optim", checkpoint.load_optimizer, false,
            "Load the weights without the state of the optimizer");
  table.set("finetune", checkpoint.finetune, true, "Load the weights only and start at iteration 0");

  table.group("Exit");
  table.integer("exit-interval", config.exit.interval,
                "Save and exit after an iteration divisible by this; 0: never", at_least(0));
  table.real("exit-duration-in-mins", config.exit.duration_in_minutes,
             "Save and exit after this time; 0: never", at_least(0));
}

FlagTable train_flags(TrainConfig& config) {
  FlagTable table;
  add_model_flags(table, config.model);
  add_moe_flags(table, config.model.moe, config.model);
  add_data_flags(table, config.data);
  add_batch_flags(table, config.batch);
  add_optimizer_flags(table, config.optimizer, config.model.expert_gradients);
  add_run_flags(table, config);
  add_compatibility_flags(table);
  return table;
}

FlagTable eval_flags(EvalConfig& config) {
  FlagTable table;
  table.group("Evaluation");
  table.path("load", config.load, "DIR", "Directory of the checkpoint");
  table.integer("iteration", config.iteration, "Iteration of the checkpoint; -1: the latest", at_least(-1));
  add_data_path_flag(table, config.sources);
  table.path("tokenizer|tokenizer-model", config.tokenizer, "FILE",
             "tokenizer.json; unset: that of the training");
  table.choice("part", config.part,
               {{"all", DataPart::all},
                {"train", DataPart::train},
                {"valid", DataPart::validation},
                {"test", DataPart::test}},
               "Part of the data set by --split");
  add_split_flag(table, config.split);
  table.integer("micro-batch-size", config.micro_batch,
                "Sequences of one forward pass of one data-parallel worker", at_least(1));
  table.integer("eval-iters", config.iterations,
                "Passes over micro-batch size * workers sequences; 0: the whole part", at_least(0));
  table.path("output", config.output, "FILE", "Write the result as JSON");
  add_device_flag(table, config.device);
  add_precision_flags(table, config.compute_dtype);
  table.require("load");
  table.require("data-path");
  add_layout_flags(table, config.layout, config.ranks_per_node, config.timeout_minutes);
  return table;
}

FlagTable generate_flags(GenerateConfig& config) {
  FlagTable table;
  table.group("Generation");
  table.path("load", config.load, "DIR", "Directory of the checkpoint");
  table.integer("iteration", config.iteration, "Iteration of the checkpoint; -1: the latest", at_least(-1));
  table.path("tokenizer|tokenizer-model", config.tokenizer, "FILE",
             "tokenizer.json; unset: that of the training");
  Flag prompt;
  prompt.value_name = "TEXT";
  prompt.help = "Text to continue; unset: read from standard input";
  prompt.read = [&config](const std::vector<std::string>& given) {
    config.prompt = given.front();
    return std::string();
  };
  prompt.show = [&config] { return config.prompt ? toml_string(*config.prompt) : std::string(); };
  table.add("prompt", std::move(prompt));
  table.integer("max-new-tokens", config.max_new_tokens, "Tokens to generate at most", at_least(1));
  table.integer("num-samples", config.samples, "Continuations to print", at_least(1));
  table.real("temperature", config.temperature, "Divides the logits; 0: the most likely token each time",
             at_least(0));
  table.integer("top-k", config.top_k, "Sample from the k most likely tokens; 0: no limit", at_least(0));
  table.real("top-p", config.top_p, "Sample from the most likely tokens that together have this probability",
             {.low = 0.0, .high = 1.0, .low_open = true});
  table.seed("seed", config.seed, "Of the sampling");
  add_device_flag(table, config.device);
  add_precision_flags(table, config.compute_dtype);
  table.require("load");
  add_layout_flags(table, config.layout, config.ranks_per_node, config.timeout_minutes);
  return table;
}

std::string to_text(const TrainConfig& config) {
  TrainConfig copy = config;  // a table refers to fields that it may set
  return train_flags(copy).to_toml();
}

TrainConfig train_config_from_text(std::string_view text, const std::string& source) {
  TrainConfig config;
  FlagTable table = train_flags(config);
  table.assign_text(text, source);
  fail_if_any(table.problems());
  return config;
}

}  // namespace xmoe
