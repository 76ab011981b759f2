// Encoding and training on one thread: MB of text per second and core. The bound of encoding is cutting the
// text into pieces alone (PCRE2), which nothing that follows can make faster.
#include <algorithm>
#include <cmath>
#include <string>
#include <string_view>
#include <vector>

#include "base/rng.h"
#include "bench/support/bench.h"
#include "data/tokenizer/tokenizer.h"
#include "data/tokenizer/trainer.h"

namespace xmoe {
namespace {

constexpr std::size_t kTextBytes = std::size_t{4}
                                   << 20;  // the size of a long book: far more than the caches of pieces hold

// Text as English has it in what matters for speed: some 100,000 distinct words, the n-th as frequent as 1 /
// n (Zipf), of 1 to 12 letters, with punctuation, numbers and lines.
std::string book() {
  constexpr std::uint64_t kWords = 100'000;
  const Rng letters(1, "letters");
  const Rng choices(1, "choices");
  const auto append_word = [&](std::string& text, std::uint64_t word) {
    // Frequent words are short.
    const std::uint64_t length = 1 + letters.below(16 * word, 3) +
                                 static_cast<std::uint64_t>(std::log2(1.0 + static_cast<double>(word)) / 2);
    for (std::uint64_t i = 1; i <= length; ++i)
      text += "etaoinshrdlucmfwypvbgk"[letters.below(16 * word + i, 22)];
  };
  std::string text;
  text.reserve(kTextBytes + 64);
  for (std::uint64_t i = 0; text.size() < kTextBytes; ++i) {
    // A power of a uniform number: the inverse of Zipf's distribution function.
    append_word(text,
                static_cast<std::uint64_t>(std::pow(static_cast<double>(kWords), choices.uniform(2 * i))));
    const std::uint64_t ending = choices.below(2 * i + 1, 40);
    text += ending == 0 ? ".\n" : ending < 3 ? ", " : ending == 3 ? " 1984 " : " ";
  }
  return text;
}

void bench_tokenizer(Bench& bench) {
  const std::string text = book();
  const double megabytes = static_cast<double>(text.size()) * 1e-6;
  for (const auto kind : {PreTokenizerKind::gpt2, PreTokenizerKind::qwen, PreTokenizerKind::llama3}) {
    TrainerOptions options;
    options.vocab_size = 8192;
    options.pre_tokenizer = kind;
    const PreTokenizer pre_tokenizer(kind);
    const auto count = [&] {
      PieceCounter counter(pre_tokenizer);
      counter.add(text);
      return counter;
    };
    const Tokenizer tokenizer(learn_vocabulary(count(), options));
    const double cutting = Bench::seconds([&] {
      PieceFinder finder(pre_tokenizer);
      finder.start(text);
      std::string_view piece;
      while (finder.next(piece)) {
      }
    });
    const double encoding = Bench::seconds([&] {
      std::vector<std::int32_t> ids;
      Encoder(tokenizer).encode(text, ids);
    });
    const std::string shape(name_of(kind));
    bench.add({"tokenizer encode", shape, "u8", megabytes / encoding, "MB/s per core", megabytes / cutting});
    if (kind != PreTokenizerKind::gpt2) continue;
    const double counting = Bench::seconds([&] { static_cast<void>(count()); });
    bench.add(
        {"tokenizer train: count", shape, "u8", megabytes / counting, "MB/s per core", megabytes / cutting});
  }
}

XMOE_BENCHMARK(tokenizer) { bench_tokenizer(bench); }

}  // namespace
}  // namespace xmoe
