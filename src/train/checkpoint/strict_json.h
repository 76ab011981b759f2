// Included by .cpp files only: nlohmann's header is heavy.
#pragma once

#include <nlohmann/json.hpp>

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace xmoe {

// Nothing that this program reads is nested deeper; what is would overflow the stack of recursive functions
// on it.
inline constexpr int kDeepestJson = 64;

// Parses JSON and refuses a key given twice in one object, of which parsers otherwise keep one in silence.
// `what` names the text in the error.
inline nlohmann::json parse_strict_json(std::string_view text, const std::string& what) {
  using nlohmann::json;
  std::vector<std::set<std::string>> keys;  // of the objects that are open
  const auto watch = [&](int depth, json::parse_event_t event, json& parsed) {
    if (depth > kDeepestJson) fail("{}: nested more than {} levels deep", what, kDeepestJson);
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end) keys.pop_back();
    if (event == json::parse_event_t::key && !keys.back().insert(parsed.get<std::string>()).second) {
      fail("{}: the key \"{}\" appears twice", what, parsed.get<std::string>());
    }
    return true;
  };
  try {
    return json::parse(text, watch);
  } catch (const json::exception& error) {
    fail("{}: not valid JSON: {}", what, error.what());
  }
}

}  // namespace xmoe
