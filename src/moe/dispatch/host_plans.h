// For dispatchers that plan on the host whatever the device: what they plan from is copied there, and the
// arrays of the plans back. On the CPU nothing is copied.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "moe/dispatch/dispatcher.h"

namespace xmoe {

class HostPlans {
 public:
  using Make =
      std::function<std::vector<DispatchPlan>(const Context& host, Arena& saved, std::span<const Pft> pfts)>;

  std::vector<DispatchPlan> plans(const Context& ctx, Arena& saved, std::span<const Pft> pfts,
                                  const Make& make);

 private:
  Arena plans_{Device{}, MemoryTag::workspace}, workspace_{Device{}, MemoryTag::workspace};
};

}  // namespace xmoe
