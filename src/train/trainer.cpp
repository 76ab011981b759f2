#include "train/trainer.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>

#include "base/hash.h"
#include "base/log.h"
#include "base/parallel.h"
#include "base/profile.h"
#include "base/progress.h"
#include "base/timer.h"
#include "data/tokenizer/tokenizer.h"
#include "model/transformer.h"
#include "train/breakdown.h"
#include "train/checkpointing.h"
#include "train/memory_account.h"
#include "train/metrics.h"
#include "train/optimizer.h"
#include "train/schedule.h"
#include "train/signals.h"
#include "train/start_up.h"
#include "train/step_summary.h"
#include "train/together.h"
#include "train/trace.h"
#include "train/training_data.h"
#include "train/training_step.h"
#include "train/validation.h"

namespace xmoe {

namespace {

class Trainer {
 public:
  Trainer(const TrainConfig& config, Communicator& world);
  void run();

 private:
  // What to go on from; nothing if training starts from the beginning.
  static std::optional<OpenCheckpoint> checkpoint_of(const TrainConfig& config, Communicator& world);
  void open_files();
  void resume();
  void print_summary() const;
  std::int64_t micro_batches() const { return config_.micro_batches(world_.size()); }
  // One iteration from reading its samples to the update. An error that all ranks share ends the training;
  // what was learnt before is saved first.
  StepResult iterate(double rate);
  void after_iteration(const StepResult& result, double rate, double seconds);
  void report(double rate);
  void validate();
  void save();
  // A checkpoint that is not worth the training: what keeps it from being saved is a warning.
  void try_to_save();
  // Whether to end after this iteration, by agreement of all ranks; says why.
  bool should_stop();

  TrainConfig config_;
  Communicator& world_;
  ParallelRun parallel_;
  Mesh& mesh_;
  std::unique_ptr<TrainingData> data_;
  std::string tokenizer_json_;  // empty without a tokenizer
  std::unique_ptr<EvaluationWindows> validation_;
  MemoryAccount memory_;                      // known to fit before anything is allocated
  std::optional<OpenCheckpoint> checkpoint_;  // to go on from, until it is loaded
  Transformer model_;
  Optimizer optimizer_;
  TrainingStep step_;
  Schedule schedule_;
  TrainingState state_;
  std::optional<MetricsReporter> reporter_;
  std::optional<Progress> progress_;
  std::optional<BreakdownCollector> breakdown_;
  std::optional<TraceRecorder> trace_;
  Timer since_start_;
  std::int64_t saved_iteration_ = -1;
  bool goes_on_in_save_ = false;      // where it was loaded from, it saves
  std::int64_t first_iteration_ = 0;  // what was done when this run began
  StepSummary summary_;               // since the last report
};

// The model with the dispatcher that it will run with. The settings that are saved keep the automatic choice:
// elsewhere it may be another.
ModelConfig settled(TrainConfig config, const Mesh& mesh, const Device& device) {
  settle_dispatcher(config, mesh, device);
  return config.model;
}

LossScaler scaler_of(const TrainConfig& config) {
  return config.compute_dtype == DType::f16 ? LossScaler(config.loss_scale) : LossScaler();
}

Trainer::Trainer(const TrainConfig& config, Communicator& world)
    : config_(config),
      world_(world),
      parallel_(world, config.device, config.parallel.layout, config.parallel.ranks_per_node,
                config.parallel.timeout_minutes),
      mesh_(parallel_.mesh),
      memory_(check_memory(config, parallel_.device, world)),
      checkpoint_(checkpoint_of(config, world)),
      // No initial values where a checkpoint gives every one: resume() loads it or throws.
      model_(settled(config, mesh_, parallel_.device), config.compute_dtype, mesh_,
             checkpoint_ ? std::nullopt : std::optional(config.seed), /*train=*/true, parallel_.device),
      optimizer_(config.optimizer, model_.parameters(), mesh_, config.parallel.zero_stage),
      step_(model_, optimizer_, mesh_, config.batch.micro, scaler_of(config)),
      schedule_(make_schedule(config)) {
  // Pages of the host that nothing touches cost nothing.
  if (!parallel_.device.is_cpu())
    model_.reserve(memory_.of(MemoryTag::saved), memory_.of(MemoryTag::workspace));
  open_files();
  state_.data_fingerprint = data_->fingerprint();
  state_.config = config;
  resume();
  together(world_, [&] {
    if (!config_.checkpoint.save.empty() && world_.rank() == 0)
      prepare_save_directory(config_.checkpoint.save, tokenizer_json_, goes_on_in_save_);
    reporter_.emplace(config_.logging.metrics_file, state_.iteration);
    if (!config_.logging.trace.empty() && world_.rank() == 0) prepare_trace_file(config_.logging.trace);
  });
  first_iteration_ = state_.iteration;
  print_summary();
}

void Trainer::open_files() {
  std::string read;
  together(world_, [&] {
    data_ = std::make_unique<TrainingData>(config_, mesh_.dp().rank(), mesh_.dp().size());
    std::vector<std::int32_t> byte_lengths;
    if (!config_.data.tokenizer.empty()) {
      const Tokenizer tokenizer = Tokenizer::load(config_.data.tokenizer);
      byte_lengths = tokenizer.byte_lengths();
      tokenizer_json_ = tokenizer.json();
    }
    if (config_.validation.iterations > 0 && config_.data.split[1] > 0.0) {
      validation_ = std::make_unique<EvaluationWindows>(data_->blend(), config_.data.split, Split::valid,
                                                        config_.model.seq_length, config_.data.vocab_size,
                                                        std::move(byte_lengths));
    }
    read = fmt::format("data {}, {} tokens to train on, {} windows to validate on, tokenizer {:016x}",
                       data_->fingerprint(), data_->tokens_per_epoch(),
                       validation_ ? validation_->count() : 0, hash64(tokenizer_json_));
  });
  expect_same(world_, "what is trained on", read, "Give all ranks the same data and tokenizer");
}

std::optional<OpenCheckpoint> Trainer::checkpoint_of(const TrainConfig& config, Communicator& world) {
  const std::filesystem::path& load = config.checkpoint.load;
  if (load.empty()) return std::nullopt;
  auto checkpoint = find_checkpoint(load, world);
  if (checkpoint)
    check_same_model(*checkpoint, config);
  else
    log::info("no checkpoint in {}: training starts from the beginning", load.string());
  return checkpoint;
}

void Trainer::resume() {
  if (!checkpoint_) return;
  const CheckpointConfig& c = config_.checkpoint;
  const TrainingState& found = checkpoint_->state;
  const bool moments = c.load_optimizer && !c.finetune;
  load_training(checkpoint_->manifest, optimizer_, moments, world_);
  if (!c.finetune) {
    state_.iteration = found.iteration;
    state_.consumed_samples = found.consumed_samples;
    state_.skipped_iterations = found.skipped_iterations;
    state_.scheduled_samples = found.scheduled_samples;
    if (moments) optimizer_.set_steps(found.optimizer_steps);
    if (moments && found.loss_scaler) step_.scaler().restore(*found.loss_scaler);
    for (const auto& change : changes_on_resume(found, state_)) log::warning("{}", change);
  }
  saved_iteration_ = c.load == c.save ? state_.iteration : -1;
  std::error_code is_not_there;
  goes_on_in_save_ =
      !c.finetune &&
      std::filesystem::equivalent(std::filesystem::absolute(checkpoint_->manifest.directory).parent_path(),
                                  c.save, is_not_there);
  log::info("loaded {} (iteration {}{})", checkpoint_->manifest.directory.string(), found.iteration,
            c.finetune ? ", weights only" : "");
  checkpoint_.reset();
}

void Trainer::print_summary() const {
  StartUpFacts facts;
  facts.topology = parallel_.topology;
  facts.threads = thread_count();
  facts.cores = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  facts.tokens_per_epoch = data_->tokens_per_epoch();
  if (validation_) facts.validation_windows = validation_->count();
  for (const std::string& line : start_up_lines(config_, facts)) log::info("{}", line);
  for (const std::string& line : start_up_warnings(config_, facts)) log::warning("{}", line);
}

void Trainer::run() {
  watch_stop_signals();
  if (!parallel_.device.is_cpu()) profile::finish_with([device = parallel_.device] { synchronize(device); });
  const std::int64_t last = config_.batch.train_iterations;
  if (state_.iteration >= last)
    log::info("the checkpoint has all {} iterations: nothing is left to train", last);
  progress_.emplace("training", last, "iterations", 1.0, first_iteration_);
  const LoggingConfig& logging = config_.logging;
  if (logging.wall_clock_breakdown) {
    profile::enable(true);
    breakdown_.emplace(mesh_, config_.model.layers);
  }
  if (!logging.trace.empty())
    trace_.emplace(logging.trace, logging.trace_begin, logging.trace_iterations,
                   logging.wall_clock_breakdown);
  bool stop = false;
  while (state_.iteration < last && !stop) {
    if (trace_) trace_->before_iteration(state_.iteration + 1 - first_iteration_, world_);
    if (breakdown_) breakdown_->begin_step();
    const Timer timer;
    const double rate = schedule_.rate_at(state_.scheduled_samples + config_.batch.global);
    const StepResult result = iterate(rate);
    const double seconds = timer.seconds();
    if (breakdown_) breakdown_->end_step();
    ++state_.iteration;
    // As in Megatron, an iteration that was skipped has used its samples up; the learning rate waits.
    state_.consumed_samples += config_.batch.global;
    if (!result.skipped) state_.scheduled_samples += config_.batch.global;
    if (trace_) trace_->after_iteration(state_.iteration - first_iteration_, world_, parallel_.topology);
    after_iteration(result, rate, seconds);
    stop = should_stop();
  }
  if (trace_) trace_->finish(world_, parallel_.topology);
  if (!summary_.empty()) report(schedule_.rate_at(state_.scheduled_samples));
  const bool validated =
      config_.validation.interval > 0 && state_.iteration % config_.validation.interval == 0;
  // A failure of the validation must not take the trained model with it.
  if (!config_.checkpoint.save.empty() && saved_iteration_ != state_.iteration) save();
  if (validation_ && !stop && !validated) validate();
  log::info("{}", peak_memory_line(parallel_.device, world_));
}

StepResult Trainer::iterate(double rate) {
  const std::int64_t first = state_.consumed_samples;
  // What no scope within names is what is left of the step.
  const profile::Scope scope(profile::Activity::other);
  try {
    return step_.run(micro_batches(), rate,
                     [&](std::int64_t index, const Tensor& tokens, const Tensor& targets) {
                       data_->read(first, index, tokens, targets);
                     });
  } catch (const Error& error) {
    // Ranks that do not fail alike cannot save together. Up to here this iteration has changed no weights.
    const bool trained = state_.iteration > first_iteration_ && saved_iteration_ != state_.iteration;
    if (error.scope() == ErrorScope::every_rank && trained && !config_.checkpoint.save.empty()) try_to_save();
    progress_->clear();
    throw;
  }
}

void Trainer::after_iteration(const StepResult& result, double rate, double seconds) {
  summary_.add(result, seconds);
  if (result.skipped) {
    ++state_.skipped_iterations;
    // Overflows are ordinary, above all in the first iterations: the log counts them.
    if (!result.overflow)
      log::warning("iteration {}: loss {} or gradient norm {} is not finite; the update is skipped",
                   state_.iteration, result.lm_loss, result.gradient_norm);
  }
  progress_->update(state_.iteration, fmt::format("loss {:.3f}", result.lm_loss));
  if (state_.iteration % config_.logging.interval == 0) report(rate);
  const CheckpointConfig& c = config_.checkpoint;
  if (!c.save.empty() && c.save_interval > 0 && state_.iteration % c.save_interval == 0) try_to_save();
  const ValidationConfig& v = config_.validation;
  if (validation_ && v.interval > 0 && state_.iteration % v.interval == 0) validate();
}

void Trainer::report(double rate) {
  const std::int64_t seq = config_.model.seq_length;
  IterationMetrics m;
  m.iteration = state_.iteration;
  m.iterations = config_.batch.train_iterations;
  m.consumed_samples = state_.consumed_samples;
  m.consumed_tokens = state_.consumed_samples * seq;
  m.global_batch = config_.batch.global;
  m.learning_rate = rate;
  m.loss_scale = step_.scaler().scale();
  summary_.fill(m, config_.model, world_.size());
  if (breakdown_) m.breakdown = breakdown_->collect();
  m.seconds_left = progress_->seconds_left(state_.iteration);
  reporter_->report(m, &*progress_);
  summary_ = {};
}

void Trainer::validate() {
  const ValidationResult r = validate_model(model_, mesh_, *validation_, config_.batch.micro,
                                            config_.validation.iterations * micro_batches(), nullptr);
  ValidationMetrics m;
  m.iteration = state_.iteration;
  m.consumed_tokens = state_.consumed_samples * config_.model.seq_length;
  m.lm_loss = r.mean_loss();
  m.bits_per_byte = r.bits_per_byte();
  reporter_->report(m, &*progress_);
}

void Trainer::save() {
  state_.optimizer_steps = optimizer_.steps();
  if (step_.scaler().dynamic()) state_.loss_scaler = step_.scaler().state();
  const auto tensors = training_tensors(optimizer_);
  const Timer timer;
  save_checkpoint(config_.checkpoint.save, state_.iteration, tensors, to_json(state_), mesh_,
                  {.keep_last = static_cast<int>(config_.checkpoint.keep_last)});
  saved_iteration_ = state_.iteration;
  progress_->clear();
  log::info("saved iteration {} to {} in {:.1f} s", state_.iteration, config_.checkpoint.save.string(),
            timer.seconds());
}

void Trainer::try_to_save() {
  try {
    save();
  } catch (const Error& error) {
    // The previous checkpoint is whole, and the next attempt may succeed. Only an error that all ranks share
    // can be passed over.
    if (error.scope() != ErrorScope::every_rank) throw;
    progress_->clear();
    log::warning("{}", error.what());
  }
}

bool Trainer::should_stop() {
  const ExitConfig& e = config_.exit;
  const bool late = e.duration_in_minutes > 0 && since_start_.seconds() > 60.0 * e.duration_in_minutes;
  // One number, so that all ranks agree: the signal, or 1000 for the time limit of any rank.
  constexpr std::int64_t kTimeLimit = 1000;
  const std::int64_t reason =
      world_.all_reduce(late ? kTimeLimit : static_cast<std::int64_t>(stop_signal()), ReduceOp::max);
  const bool interval = e.interval > 0 && state_.iteration % e.interval == 0;
  if (reason == 0 && !interval) return false;
  progress_->clear();
  const std::string why = reason == kTimeLimit ? "--exit-duration-in-mins is over"
                          : reason != 0        ? stop_signal_name(static_cast<int>(reason))
                                               : "--exit-interval";
  log::info("stopping after iteration {}: {}{}", state_.iteration, why,
            config_.checkpoint.save.empty() ? "; without --save nothing is saved" : "");
  return true;
}

}  // namespace

void run_training(const TrainConfig& config, Communicator& world) { Trainer(config, world).run(); }

}  // namespace xmoe
