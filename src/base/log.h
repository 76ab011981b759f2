// Messages to the terminal. Standard output carries results; what a person reads while waiting goes to
// standard error.
#pragma once

#include <fmt/core.h>

#include <string>
#include <utility>

namespace xmoe::log {

// The rank that speaks: messages of other ranks are kept back unless they are errors. Default 0 of 1.
void set_rank(int rank, int world_size);
int rank();

void write_info(const std::string& message);
void write_warning(const std::string& message);
void write_error(const std::string& message);  // from any rank; named when there are several

template <typename... Args>
void info(fmt::format_string<Args...> format, Args&&... args) {
  write_info(fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void warning(fmt::format_string<Args...> format, Args&&... args) {
  write_warning(fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void error(fmt::format_string<Args...> format, Args&&... args) {
  write_error(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace xmoe::log
