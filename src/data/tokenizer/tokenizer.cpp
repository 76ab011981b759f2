#include "data/tokenizer/tokenizer.h"

#include <algorithm>
#include <array>
#include <unordered_map>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/parallel.h"
#include "data/tokenizer/vocabulary_file.h"

namespace xmoe {

namespace {

// What the tokenizers in use call the end of a document.
constexpr std::array kEndOfDocumentNames{kEndOfText, std::string_view("<|end_of_text|>"),
                                         std::string_view("</s>"), std::string_view("<eos>"),
                                         std::string_view("<|eos|>")};

// A piece longer than this is hardly met again.
constexpr std::size_t kLongestCachedPiece = 64;
// The cache stays within the second-level caches of processors; text has few words that are frequent.
constexpr std::size_t kCachedPieces = std::size_t{1} << 15;
// Text that one thread takes at a time: far more than it costs to start on it.
constexpr std::size_t kEncodeBytes = std::size_t{128} << 10;

// Added tokens within a text: calls on_text for what lies between them, on_token for each, in order. The
// leftmost wins, then the longest.
template <typename OnText, typename OnToken>
void split_added_tokens(std::string_view text, const std::vector<AddedToken>& added, OnText&& on_text,
                        OnToken&& on_token) {
  std::array<bool, 256> starts{};
  for (const auto& token : added) starts[static_cast<unsigned char>(token.content[0])] = true;
  std::size_t begin = 0;
  for (std::size_t i = 0; i < text.size();) {
    const AddedToken* best = nullptr;
    if (starts[static_cast<unsigned char>(text[i])]) {
      for (const auto& token : added)
        if (text.substr(i).starts_with(token.content) &&
            (best == nullptr || token.content.size() > best->content.size()))
          best = &token;
    }
    if (best == nullptr) {
      ++i;
      continue;
    }
    on_text(text.substr(begin, i - begin));
    on_token(best->id);
    i += best->content.size();
    begin = i;
  }
  on_text(text.substr(begin));
}

}  // namespace

Tokenizer::Tokenizer(Vocabulary vocabulary)
    : vocabulary_(std::move(vocabulary)), pre_tokenizer_(vocabulary_.pre_tokenizer), bpe_(vocabulary_) {
  for (const std::string_view name : kEndOfDocumentNames) {
    for (const auto& token : vocabulary_.added)
      if (token.content == name) end_of_document_ = token.id;
    if (end_of_document_ >= 0) break;
  }
}

Tokenizer Tokenizer::load(const std::filesystem::path& path) {
  Vocabulary vocabulary = load_vocabulary(path);
  try {
    return Tokenizer(std::move(vocabulary));
  } catch (const Error& error) {
    fail("{}: {}", path.string(), error.what());
  }
}

std::string Tokenizer::json() const { return to_tokenizer_json(vocabulary_); }

void Tokenizer::save(const std::filesystem::path& path) const { write_file_atomically(path, json()); }

std::vector<std::int32_t> Tokenizer::encode(std::string_view text, AddedTokens added) const {
  std::vector<std::int32_t> ids;
  if (added == AddedTokens::recognised && !vocabulary_.added.empty()) {
    split_added_tokens(
        text, vocabulary_.added,
        [&](std::string_view part) {
          const auto part_ids = encode(part);
          ids.insert(ids.end(), part_ids.begin(), part_ids.end());
        },
        [&](std::int32_t id) { ids.push_back(id); });
    return ids;
  }
  std::vector<std::string_view> chunks;
  for (std::string_view rest = text; !rest.empty();) {
    const std::size_t length = safe_cut(rest, kEncodeBytes);
    chunks.push_back(rest.substr(0, length));
    rest.remove_prefix(length);
  }
  std::vector<std::vector<std::int32_t>> chunk_ids(chunks.size());
  std::vector<Encoder> encoders;
  const auto threads = std::min<std::size_t>(static_cast<std::size_t>(thread_count()), chunks.size());
  encoders.reserve(threads);
  for (std::size_t i = 0; i < threads; ++i) encoders.emplace_back(*this);
  parallel_tasks(static_cast<std::int64_t>(chunks.size()), [&](std::int64_t task, int thread) {
    const auto i = static_cast<std::size_t>(task);
    encoders[static_cast<std::size_t>(thread)].encode(chunks[i], chunk_ids[i]);
  });
  if (chunk_ids.size() == 1) return std::move(chunk_ids.front());
  for (const auto& part : chunk_ids) ids.insert(ids.end(), part.begin(), part.end());
  return ids;
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids) const {
  std::string text;
  for (const std::int32_t id : ids) text += token_bytes(id);
  return text;
}

std::int32_t Tokenizer::end_of_document() const {
  if (end_of_document_ < 0)
    fail("the tokenizer has no end-of-document token: expected {} (or {}) among its added tokens",
         kEndOfDocumentNames[0], kEndOfDocumentNames[1]);
  return end_of_document_;
}

std::string_view Tokenizer::token_bytes(std::int32_t id) const {
  if (id < 0 || id >= vocab_size())
    fail("token id {} is outside of the vocabulary of {} tokens", id, vocab_size());
  return vocabulary_.tokens[static_cast<std::size_t>(id)];
}

std::vector<std::int32_t> Tokenizer::byte_lengths() const {
  std::vector<std::int32_t> lengths;
  lengths.reserve(vocabulary_.tokens.size());
  for (const auto& token : vocabulary_.tokens) lengths.push_back(static_cast<std::int32_t>(token.size()));
  for (const auto& token : vocabulary_.added)
    if (token.special) lengths[static_cast<std::size_t>(token.id)] = 0;
  return lengths;
}

Encoder::Encoder(const Tokenizer& tokenizer) : tokenizer_(&tokenizer), finder_(tokenizer.pre_tokenizer_) {}

void Encoder::encode(std::string_view text, std::vector<std::int32_t>& ids) {
  finder_.start(text);
  std::string_view piece;
  while (finder_.next(piece)) {
    if (piece.size() > kLongestCachedPiece) {
      tokenizer_->bpe_.encode(piece, ids, scratch_);
      continue;
    }
    if (pieces_.size() == kCachedPieces) {
      pieces_.clear();
      cached_ids_.clear();
      cached_ends_.clear();
    }
    const auto [number, is_new] = pieces_.insert(piece);
    const auto i = static_cast<std::size_t>(number);
    if (is_new) {
      tokenizer_->bpe_.encode(piece, cached_ids_, scratch_);
      cached_ends_.push_back(cached_ids_.size());
    }
    const std::size_t begin = i == 0 ? 0 : cached_ends_[i - 1];
    for (std::size_t k = begin; k < cached_ends_[i]; ++k) ids.push_back(cached_ids_[k]);
  }
}

}  // namespace xmoe
