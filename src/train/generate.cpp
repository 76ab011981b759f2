#include "train/generate.h"

#include <istream>
#include <iterator>
#include <optional>
#include <ostream>

#include "base/hash.h"
#include "base/rng.h"
#include "data/tokenizer/tokenizer.h"
#include "train/checkpointing.h"
#include "train/flag_table.h"
#include "train/sampling.h"
#include "train/start_up.h"
#include "train/together.h"

namespace xmoe {

namespace {

// The prompt, on all ranks.
std::string read_prompt(const GenerateConfig& config, Communicator& world, std::istream& input) {
  if (config.prompt) return *config.prompt;
  std::string text;
  if (world.rank() == 0) text.assign(std::istreambuf_iterator<char>(input), {});
  // `echo prompt |` ends the line; the text is to go on in it.
  if (text.ends_with('\n')) text.pop_back();
  return world.all_gather_text(text).front();
}

// Feeds tokens one after the other and samples what follows. When the model's context is full, its later half
// is read again as a new context.
class Generator {
 public:
  Generator(Transformer& model, std::int64_t vocab_size)
      : model_(model),
        memory_({}, MemoryTag::workspace),
        cache_memory_(model.context().device(), MemoryTag::workspace),
        cache_(model.make_cache(cache_memory_, 1)) {
    token_ = memory_.tensor(DType::i32, {1});
    logits_ = memory_.tensor(DType::f32, {1, model.config().vocabulary});
    // Rows behind the tokenizer's are padding.
    choices_ = std::span<const float>(logits_.data<float>(), static_cast<std::size_t>(vocab_size));
  }

  void restart() {
    cache_.length = 0;
    context_.clear();
  }
  void feed(std::int32_t token) {
    if (cache_.length == model_.config().seq_length) {
      const std::vector<std::int32_t> later(
          context_.begin() + static_cast<std::ptrdiff_t>(context_.size() / 2), context_.end());
      restart();
      for (const auto t : later) feed(t);
    }
    context_.push_back(token);
    token_.data<std::int32_t>()[0] = token;
    model_.decode(token_, cache_, logits_);
  }
  std::span<const float> logits() const { return choices_; }

 private:
  Transformer& model_;
  Arena memory_, cache_memory_;
  KeyValueCache cache_;
  Tensor token_, logits_;
  std::span<const float> choices_;
  std::vector<std::int32_t> context_;
};

}  // namespace

void run_generation(const GenerateConfig& config, Communicator& world, std::istream& input,
                    std::ostream& output) {
  const OpenCheckpoint checkpoint = open_checkpoint(config.load, config.iteration, world);
  const TrainConfig& trained = checkpoint.state.config;
  std::optional<Tokenizer> tokenizer;
  together(world, [&] {
    tokenizer = load_tokenizer(checkpoint, config.tokenizer);
    if (!tokenizer)
      fail("there is no {} beside {}: give --tokenizer", kTokenizerFile,
           checkpoint.manifest.directory.string());
  });
  // Ranks that read another prompt would wait for each other.
  expect_same(world, "the tokenizer", fmt::format("checksum {:016x}", hash64(tokenizer->json())),
              "Give all ranks the same --tokenizer");
  fail_if_any(model_layout_problems(trained.model, config.layout, world.size()));
  ParallelRun parallel(world, config.device, config.layout, config.ranks_per_node, config.timeout_minutes);
  Transformer model(model_to_run(trained.model), config.compute_dtype.value_or(trained.compute_dtype),
                    parallel.mesh, /*seed=*/std::nullopt, /*train=*/false, parallel.device);
  load_weights(checkpoint.manifest, model, world);

  const std::string prompt = read_prompt(config, world, input);
  std::vector<std::int32_t> prompt_ids = tokenizer->encode(prompt);
  const std::int32_t end = tokenizer->has_end_of_document() ? tokenizer->end_of_document() : -1;
  // Documents followed an end of document in training: it is the natural beginning, and all there is without
  // a prompt.
  if (end >= 0) prompt_ids.insert(prompt_ids.begin(), end);
  if (prompt_ids.empty())
    fail_everywhere(
        "--prompt is empty, and the tokenizer has no end of document to begin with: give a prompt");

  Generator generator(model, tokenizer->vocab_size());
  Sampler sampler({.temperature = config.temperature, .top_k = config.top_k, .top_p = config.top_p});
  for (std::int64_t s = 0; s < config.samples; ++s) {
    const Rng rng(config.seed, static_cast<std::uint64_t>(s));
    generator.restart();
    for (const auto id : prompt_ids) generator.feed(id);
    if (world.rank() == 0) output << (s > 0 ? "\n----\n" : "") << prompt;
    for (std::int64_t i = 0; i < config.max_new_tokens; ++i) {
      // All ranks compute the same logits and draw the same number.
      const std::int32_t id = sampler.choose(generator.logits(), rng.uniform(static_cast<std::uint64_t>(i)));
      if (id == end) break;
      if (world.rank() == 0) output << tokenizer->token_bytes(id) << std::flush;
      if (i + 1 < config.max_new_tokens) generator.feed(id);
    }
    if (world.rank() == 0) output << '\n';
  }
}

}  // namespace xmoe
