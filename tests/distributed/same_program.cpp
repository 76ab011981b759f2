// What same_program.sh runs under the launcher.
#include <fmt/core.h>

#include "base/error.h"
#include "comm/same_program.h"

int main(int argc, char** argv) {
  xmoe::CommunicationSession session(&argc, &argv);
  try {
    xmoe::expect_same_program(session.world());
    return 0;
  } catch (const xmoe::Error& error) {
    if (error.scope() != xmoe::ErrorScope::every_rank) session.abort(3);
    fmt::print(stderr, "rank {} says: {}\n", session.world().rank(), error.what());
  }
  session.world().barrier();  // all get here
  return 2;
}
