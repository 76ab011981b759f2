// A step that may fail on some ranks only (a file that one node lacks) and has to be given up by all.
#pragma once

#include <filesystem>
#include <string>
#include <utility>

#include "base/error.h"
#include "comm/communicator.h"

namespace xmoe {

// Throws Error on every rank when `message`, what went wrong on this one, is not empty on some rank.
void fail_together(Communicator& world, const std::string& message);

// Throws Error on every rank when `value` is not the same on all of them, with what each has. `what` names it
// ("the settings"), `remedy` says what to do.
void expect_same(Communicator& world, const std::string& what, const std::string& value,
                 const std::string& remedy);

// What the standard library says of a file, as a message for the user.
std::string message_of(const std::filesystem::filesystem_error& error);

// Runs f on every rank and then throws on every rank if it threw Error (or the standard library's error of a
// file) on any, with the messages of those that did. f must not communicate: a rank that fails would leave
// the others waiting.
template <typename F>
void together(Communicator& world, F&& f) {
  std::string message;
  try {
    std::forward<F>(f)();
  } catch (const Error& error) {
    message = error.what();
  } catch (const std::filesystem::filesystem_error& error) {
    message = message_of(error);
  }
  fail_together(world, message);
}

}  // namespace xmoe
