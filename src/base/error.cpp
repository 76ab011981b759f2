#include "base/error.h"

namespace xmoe {

void check_failed(const char* file, int line, const char* condition, const std::string& detail) {
  throw InvariantError(fmt::format("{}:{}: check failed: {}: {}", file, line, condition, detail));
}

}  // namespace xmoe
