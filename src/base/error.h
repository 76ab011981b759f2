// Errors in three tiers.
//   fail()        what a user, a file or the machine did: the message says what was found, what was expected
//                 and what to do. main() prints it without a stack and exits non-zero.
//   XMOE_CHECK    an invariant of our own; always on. A failure is a defect of this program.
//   XMOE_DCHECK   the same in hot loops; compiled out of release builds.
#pragma once

#include <fmt/core.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace xmoe {

// Which ranks are raising the error. `every_rank`: all ranks take the same decision from the same data, so
// one of them speaks and all exit in order. `this_rank`: the others know nothing and must be ended.
enum class ErrorScope { this_rank, every_rank };

class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message, ErrorScope scope = ErrorScope::this_rank)
      : std::runtime_error(message), scope_(scope) {}
  ErrorScope scope() const { return scope_; }

 private:
  ErrorScope scope_;
};

class InvariantError : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

template <typename... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}

// Raised alike on all ranks (see ErrorScope).
template <typename... Args>
[[noreturn]] void fail_everywhere(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...), ErrorScope::every_rank);
}

[[noreturn]] void check_failed(const char* file, int line, const char* condition, const std::string& detail);

}  // namespace xmoe

#define XMOE_CHECK(condition, ...)                                                      \
  do {                                                                                  \
    if (!(condition)) [[unlikely]]                                                      \
      ::xmoe::check_failed(__FILE__, __LINE__, #condition, ::fmt::format(__VA_ARGS__)); \
  } while (false)

#ifdef NDEBUG
#define XMOE_DCHECK(condition, ...) \
  do {                              \
  } while (false)
#else
#define XMOE_DCHECK(condition, ...) XMOE_CHECK(condition, __VA_ARGS__)
#endif
