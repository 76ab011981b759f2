// A step that may fail on some ranks only (a file that one node lacks) and has to be given up by all.
#pragma once

#include <string>
#include <utility>

#include "base/error.h"
#include "comm/communicator.h"

namespace xmoe {

// Throws Error on every rank when `message`, what went wrong on this one, is not empty on some rank.
void fail_together(Communicator& world, const std::string& message);

// Runs f on every rank and then throws on every rank if it threw Error on any, with the messages of those
// that did. f must not communicate: a rank that fails would leave the others waiting.
template <typename F>
void together(Communicator& world, F&& f) {
  std::string message;
  try {
    std::forward<F>(f)();
  } catch (const Error& error) {
    message = error.what();
  }
  fail_together(world, message);
}

}  // namespace xmoe
