// Byte-pair encoding and its training as one would explain them, for tests: quadratic, without any state that
// is kept up to date.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "data/tokenizer/vocabulary.h"

namespace xmoe::naive {

using Word = std::vector<std::string>;  // tokens by their bytes

inline Word bytes_of(std::string_view piece) {
  Word word;
  for (const char c : piece) word.emplace_back(1, c);
  return word;
}

// Replaces every occurrence of the pair, from the left.
inline Word replace(const Word& word, const std::string& left, const std::string& right) {
  Word result;
  for (std::size_t i = 0; i < word.size(); ++i) {
    if (i + 1 < word.size() && word[i] == left && word[i + 1] == right) {
      result.push_back(left + right);
      ++i;
    } else {
      result.push_back(word[i]);
    }
  }
  return result;
}

// As GPT-2's encoder does it: all occurrences of the pair of the lowest rank, round after round.
inline std::vector<std::int32_t> encode(std::string_view piece, const Vocabulary& vocabulary) {
  std::map<std::pair<std::string, std::string>, std::size_t> ranks;
  const auto& tokens = vocabulary.tokens;
  for (std::size_t i = 0; i < vocabulary.merges.size(); ++i)
    ranks[{tokens[static_cast<std::size_t>(vocabulary.merges[i].left)],
           tokens[static_cast<std::size_t>(vocabulary.merges[i].right)]}] = i;
  Word word = bytes_of(piece);
  while (true) {
    auto best = ranks.end();
    for (std::size_t i = 0; i + 1 < word.size(); ++i) {
      const auto found = ranks.find({word[i], word[i + 1]});
      if (found != ranks.end() && (best == ranks.end() || found->second < best->second)) best = found;
    }
    if (best == ranks.end()) break;
    word = replace(word, best->first.first, best->first.second);
  }
  std::vector<std::int32_t> ids;
  for (const auto& token : word)
    ids.push_back(static_cast<std::int32_t>(std::find(tokens.begin(), tokens.end(), token) - tokens.begin()));
  return ids;
}

// The pairs merged, in order; `ids` numbers the tokens known at the start and receives the new ones.
inline std::vector<std::pair<std::string, std::string>> learn(std::map<std::string, std::int64_t> pieces,
                                                              std::map<std::string, std::int32_t> ids,
                                                              std::size_t tokens,
                                                              std::int64_t min_frequency) {
  std::map<std::string, Word> words;
  for (const auto& [piece, count] : pieces) words[piece] = bytes_of(piece);
  std::vector<std::pair<std::string, std::string>> merges;
  while (ids.size() < tokens) {
    std::map<std::pair<std::int32_t, std::int32_t>, std::int64_t> counts;
    std::map<std::int32_t, std::string> token_of;
    for (const auto& [token, id] : ids) token_of[id] = token;
    for (const auto& [piece, word] : words)
      for (std::size_t i = 0; i + 1 < word.size(); ++i)
        counts[{ids.at(word[i]), ids.at(word[i + 1])}] += pieces[piece];
    std::pair<std::int32_t, std::int32_t> best;
    std::int64_t most = 0;
    for (const auto& [pair, count] : counts) {  // in the order of the ids, so that the first of equals stays
      if (count > most) {
        best = pair;
        most = count;
      }
    }
    if (most < min_frequency) break;
    const std::string left = token_of[best.first];
    const std::string right = token_of[best.second];
    merges.emplace_back(left, right);
    for (auto& [piece, word] : words) word = replace(word, left, right);
    const auto next = static_cast<std::int32_t>(ids.size());
    ids.emplace(left + right, next);
  }
  return merges;
}

}  // namespace xmoe::naive
