#include "data/tokenizer/pre_tokenizer.h"

#include <array>
#include <limits>
#include <string>
#include <utility>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/error.h"
#include "data/tokenizer/byte_level.h"

namespace xmoe {

namespace {

struct KnownPattern {
  PreTokenizerKind kind;
  std::string_view name;
  std::string_view pattern;
};

constexpr std::array kKnownPatterns{
    KnownPattern{PreTokenizerKind::gpt2, "gpt2",
                 R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)"},
    KnownPattern{PreTokenizerKind::qwen, "qwen",
                 R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
                 R"(\s*[\r\n]+|\s+(?!\S)|\s+)"},
    KnownPattern{
        PreTokenizerKind::llama3, "llama3",
        R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
        R"(\s*[\r\n]+|\s+(?!\S)|\s+)"},
};

const KnownPattern& known(PreTokenizerKind kind) {
  for (const auto& entry : kKnownPatterns)
    if (entry.kind == kind) return entry;
  fail("unknown pre-tokenizer {}", static_cast<int>(kind));
}

// PCRE2's \s also holds U+180E, which Unicode no longer counts as white space and other engines do not match:
// spell the White_Space property out, inside and outside of classes.
std::string with_exact_white_space(std::string_view pattern) {
  constexpr std::string_view kSpaces =
      R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
  std::string result;
  bool in_class = false;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      const char escaped = pattern[++i];
      if (escaped == 's') {
        result += in_class ? std::string(kSpaces) : "[" + std::string(kSpaces) + "]";
      } else if (escaped == 'S') {
        result += "[^" + std::string(kSpaces) + "]";
      } else {
        result += {'\\', escaped};
      }
      continue;
    }
    if (c == '[') in_class = true;
    if (c == ']') in_class = false;
    result += c;
  }
  return result;
}

// Room for the matcher to remember where it may go back to; grows on demand up to the limit.
constexpr std::size_t kJitStackStart = std::size_t{32} << 10;
constexpr std::size_t kJitStackLimit = std::size_t{16} << 20;

}  // namespace

std::string_view name_of(PreTokenizerKind kind) { return known(kind).name; }
std::string_view pattern_of(PreTokenizerKind kind) { return known(kind).pattern; }

std::optional<PreTokenizerKind> pre_tokenizer_named(std::string_view name) {
  for (const auto& entry : kKnownPatterns)
    if (entry.name == name) return entry.kind;
  return std::nullopt;
}

std::optional<PreTokenizerKind> pre_tokenizer_with_pattern(std::string_view pattern) {
  for (const auto& entry : kKnownPatterns)
    if (entry.pattern == pattern) return entry.kind;
  return std::nullopt;
}

struct PreTokenizer::Pattern {
  explicit Pattern(PreTokenizerKind kind) {
    const std::string pattern = with_exact_white_space(pattern_of(kind));
    int error = 0;
    PCRE2_SIZE offset = 0;
    // Anchored: every character starts some alternative, so each match begins where the last one ended.
    code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                         PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &error, &offset, nullptr);
    XMOE_CHECK(code != nullptr, "PCRE2 error {} at offset {} of pattern {}", error, offset, pattern);
    // Where PCRE2 was built without its compiler (some processors), matching falls back to its interpreter.
    compiled = pcre2_jit_compile(code, PCRE2_JIT_COMPLETE) == 0;
  }
  ~Pattern() { pcre2_code_free(code); }
  Pattern(const Pattern&) = delete;
  Pattern& operator=(const Pattern&) = delete;

  pcre2_code* code = nullptr;
  bool compiled = false;
};

PreTokenizer::PreTokenizer(PreTokenizerKind kind)
    : kind_(kind), pattern_(std::make_shared<const Pattern>(kind)) {}

struct PieceFinder::Workspace {
  explicit Workspace(std::shared_ptr<const PreTokenizer::Pattern> shared)
      : pattern(std::move(shared)),
        match(pcre2_match_data_create(1, nullptr)),
        context(pcre2_match_context_create(nullptr)),
        stack(pcre2_jit_stack_create(kJitStackStart, kJitStackLimit, nullptr)) {
    XMOE_CHECK(match != nullptr && context != nullptr, "out of memory");
    // A run of white space may be as long as the file.
    pcre2_set_match_limit(context, std::numeric_limits<std::uint32_t>::max());
    if (stack != nullptr) pcre2_jit_stack_assign(context, nullptr, stack);
  }
  ~Workspace() {
    pcre2_match_data_free(match);
    pcre2_match_context_free(context);
    if (stack != nullptr) pcre2_jit_stack_free(stack);
  }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  std::shared_ptr<const PreTokenizer::Pattern> pattern;
  pcre2_match_data* match;
  pcre2_match_context* context;
  pcre2_jit_stack* stack;
};

PieceFinder::PieceFinder(const PreTokenizer& pre_tokenizer)
    : workspace_(std::make_unique<Workspace>(pre_tokenizer.pattern_)) {}
PieceFinder::~PieceFinder() = default;
PieceFinder::PieceFinder(PieceFinder&& other) noexcept = default;
PieceFinder& PieceFinder::operator=(PieceFinder&& other) noexcept = default;

void PieceFinder::start(std::string_view text) {
  text_ = text;
  position_ = 0;
  valid_end_ = 0;
}

bool PieceFinder::next(std::string_view& piece) {
  if (position_ == text_.size()) return false;
  if (position_ == valid_end_) valid_end_ += valid_utf8_prefix(text_.substr(position_));
  std::size_t end = position_ + 1;  // of a byte that belongs to no character
  if (position_ < valid_end_) {
    const auto* subject = reinterpret_cast<PCRE2_SPTR>(text_.data());
    const auto& pattern = *workspace_->pattern;
    const int result = pattern.compiled
                           ? pcre2_jit_match(pattern.code, subject, valid_end_, position_, PCRE2_NO_UTF_CHECK,
                                             workspace_->match, workspace_->context)
                           : pcre2_match(pattern.code, subject, valid_end_, position_, PCRE2_NO_UTF_CHECK,
                                         workspace_->match, workspace_->context);
    XMOE_CHECK(result > 0, "PCRE2 error {} at byte {} of a text of {} bytes", result, position_,
               text_.size());
    end = pcre2_get_ovector_pointer(workspace_->match)[1];
    XMOE_DCHECK(end > position_, "empty match at byte {}", position_);
  } else {
    valid_end_ = end;
  }
  piece = text_.substr(position_, end - position_);
  position_ = end;
  return true;
}

std::size_t safe_cut(std::string_view text, std::size_t wanted) {
  // A visible ASCII character before a space: in all three patterns the space starts a new piece, and no
  // piece of the prefix depends on what follows it, because only white space looks ahead.
  for (std::size_t i = std::max<std::size_t>(wanted, 1); i < text.size(); ++i) {
    const char before = text[i - 1];
    if (text[i] == ' ' && before > ' ' && before <= '~') return i;
  }
  return text.size();
}

}  // namespace xmoe
