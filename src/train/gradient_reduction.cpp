#include "train/gradient_reduction.h"

#include <algorithm>

#include "base/profile.h"

namespace xmoe {

namespace {

// Sums under way at once. Each takes as much memory as its bucket: with two, one is on the wire while
// backward completes the next.
constexpr std::size_t kInFlight = 2;

}  // namespace

std::vector<Bucket> plan_buckets(const ParameterSet& parameters, const Mesh& mesh, std::int64_t elements) {
  std::vector<Bucket> buckets;
  const auto groups = parameters.groups();
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const auto& ends = groups[g].stage_ends;
    const Communicator& ranks = replicas(mesh, groups[g].replication);
    std::int64_t end = ends.back();
    for (std::size_t stage = ends.size(); stage-- > 0;) {
      const std::int64_t begin = stage == 0 ? 0 : ends[stage - 1];
      if (begin == end || (end - begin < elements && begin > 0)) continue;
      const AxisRange whole = {begin, end - begin};
      buckets.push_back(
          {g, static_cast<int>(stage), whole, equal_part(whole, ranks.rank(), std::int64_t{ranks.size()})});
      end = begin;
    }
  }
  std::stable_sort(buckets.begin(), buckets.end(),
                   [](const Bucket& a, const Bucket& b) { return a.stage > b.stage; });
  return buckets;
}

GradientReduction::GradientReduction(const ParameterSet& parameters, const Mesh& mesh, bool scatter,
                                     std::int64_t elements)
    : parameters_(parameters),
      mesh_(mesh),
      scatter_(scatter),
      buckets_(plan_buckets(parameters, mesh, elements)) {}

Tensor GradientReduction::whole(const Bucket& bucket, const Tensor& flat) const {
  return flat.slice(bucket.whole.begin, bucket.whole.begin + bucket.whole.size);
}

Tensor GradientReduction::own(const Bucket& bucket, const Tensor& flat) const {
  return flat.slice(bucket.own.begin, bucket.own.begin + bucket.own.size);
}

Communicator& GradientReduction::ranks_of(const Bucket& bucket) const {
  return replicas(mesh_, parameters_.groups()[bucket.group].replication);
}

void GradientReduction::start(int stage) {
  XMOE_CHECK(started_ > 0 || transfers_.empty(), "sums are started before earlier transfers have ended");
  const profile::Scope scope(profile::Activity::reduction);
  for (; started_ < buckets_.size() && buckets_[started_].stage >= stage; ++started_) {
    if (started_ >= kInFlight) transfers_[started_ - kInFlight]->wait();
    const Bucket& bucket = buckets_[started_];
    const Tensor& gradients = parameters_.groups()[bucket.group].gradients;
    transfers_.push_back(
        ranks_of(bucket).start_reduce_scatter(whole(bucket, gradients), own(bucket, gradients)));
  }
}

void GradientReduction::wait_own_parts() {
  start(0);
  if (profile::enabled()) {
    const profile::Scope scope(profile::Activity::waiting);
    mesh_.world().barrier();
  }
  const profile::Scope scope(profile::Activity::reduction);
  for (std::size_t b = 0; b < buckets_.size(); ++b) {
    transfers_[b]->wait();
    if (scatter_) continue;
    const Bucket& bucket = buckets_[b];
    const Tensor& gradients = parameters_.groups()[bucket.group].gradients;
    transfers_.push_back(ranks_of(bucket).start_all_gather(own(bucket, gradients), whole(bucket, gradients)));
  }
  started_ = 0;
}

void GradientReduction::finish() {
  const profile::Scope scope(profile::Activity::reduction);
  for (const auto& transfer : transfers_) transfer->wait();
  transfers_.clear();
}

void GradientReduction::start_gather(std::size_t index) {
  const profile::Scope scope(profile::Activity::reduction);
  const Bucket& bucket = buckets_[index];
  const Tensor& values = parameters_.groups()[bucket.group].values;
  transfers_.push_back(ranks_of(bucket).start_all_gather(own(bucket, values), whole(bucket, values)));
}

}  // namespace xmoe
