// What killed_save.sh runs under the launcher.
//   killed_save save ROOT ITERATION [STAGE]   saves; with a stage, the last rank is killed when it gets there
//   killed_save check ROOT LEAST MOST         loads what is there; its iteration must be from LEAST to MOST
#include <csignal>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/log.h"
#include "support/model_state.h"
#include "train/checkpoint/checkpoint.h"

namespace xmoe {
namespace {

// The state's bytes follow from the iteration, so that a mixture of two saves is noticed.
int run(Communicator& world, const std::vector<std::string>& arguments) {
  const std::int64_t first = std::stoll(arguments.at(2));
  const Mesh mesh(world, world.size());
  if (arguments.at(0) == "save") {
    test::ModelState state(mesh.ep().rank(), mesh.ep().size(), static_cast<std::uint64_t>(first));
    SaveOptions options;
    options.keep_last = 2;
    options.at_stage = [&](SaveStage reached) {
      const bool here = arguments.size() > 3 && static_cast<int>(reached) == std::stoi(arguments[3]);
      if (here && world.rank() == world.size() - 1) std::raise(SIGKILL);
    };
    save_checkpoint(arguments.at(1), first, state.tensors(), "{}", mesh, options);
    return 0;
  }
  const auto manifest = read_manifest(arguments.at(1));
  if (manifest.iteration < first || manifest.iteration > std::stoll(arguments.at(3))) {
    fail("iteration {} is there", manifest.iteration);
  }
  test::ModelState state(mesh.ep().rank(), mesh.ep().size(), static_cast<std::uint64_t>(manifest.iteration));
  state.wipe();
  load_checkpoint(manifest, state.tensors(), world);
  if (!state.is_filled()) fail("iteration {} holds other values", manifest.iteration);
  return 0;
}

}  // namespace
}  // namespace xmoe

int main(int argc, char** argv) {
  xmoe::CommunicationSession session(&argc, &argv);
  try {
    return xmoe::run(session.world(), {argv + 1, argv + argc});
  } catch (const std::exception& error) {
    xmoe::log::error("{}", error.what());
    session.abort(1);
  }
}
