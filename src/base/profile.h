// Where the time of a step goes: scopes name what the thread that communicates is doing, and for which layer.
// Off (the default) a scope costs one load. Scopes nest; an inner one's time is not the outer one's. One
// thread uses them; any thread may ask for the place.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace xmoe::profile {

enum class Activity : std::uint8_t {
  embedding,
  attention,
  dense,          // feed-forward blocks of dense layers, shared experts
  gating,         // router: logits, choice
  pft,            // building routing arrays and plans
  gather,         // packing rows to be sent
  between_nodes,  // exchanges of rows over all nodes of an expert-parallel group
  within_node,    // exchanges of rows inside a node
  experts,
  combine,
  tensor_parallel,  // gathers and scatters of activations over the tp group
  loss,
  reduction,  // of gradients, and gathers of parameters
  optimizer,
  waiting,  // for ranks that come later to an exchange
  other,
};
inline constexpr int kActivities = static_cast<int>(Activity::other) + 1;
std::string_view name_of(Activity activity);

void enable(bool on);
bool enabled();
// Where work is queued on a device, `finish` waits for it. While enabled it is called when scopes begin and
// end, so that time goes to what the work was for.
void finish_with(std::function<void()> finish);

class Scope {
 public:
  explicit Scope(Activity activity);
  ~Scope();
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;

 private:
  bool active_;
};

// Work in its scope belongs to this layer, that of an activity begun outside too; without one, to the step.
class LayerScope {
 public:
  explicit LayerScope(std::int64_t layer);
  ~LayerScope();
  LayerScope(const LayerScope&) = delete;
  LayerScope& operator=(const LayerScope&) = delete;

 private:
  std::int64_t before_;
};

// The layer that the process works on at the moment, -1 for none; kept whether enabled or not.
std::int64_t current_layer();

// Seconds by layer (row 0: no layer) and activity since the last call.
using Seconds = std::array<double, kActivities>;
std::vector<Seconds> take();

// A scope that has ended, for a timeline. An outer scope's event contains those of its inner ones.
struct Event {
  std::int64_t begin_ns = 0;  // since record_events()
  std::int64_t end_ns = 0;
  std::int32_t layer = -1;  // at its end; -1: none
  Activity activity = Activity::other;
};

// Keeps the scopes that end from now on, the first `limit` of them; room for all is taken at once. Needs
// enable(true).
void record_events(std::size_t limit);
// What was kept, in the order of their ends; ends the recording.
struct Events {
  std::vector<Event> events;
  std::int64_t lost = 0;  // beyond the limit
};
Events take_events();

}  // namespace xmoe::profile
