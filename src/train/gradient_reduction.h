// Sums of gradients over the ranks that hold the same parameters, in buckets, while the backward pass goes
// on; and gathers of parameters that were updated in parts.
//
// A bucket is a run of whole stages of one group's flat buffers. It cuts into equal parts, one for each rank
// that holds a copy: part r is summed on replica r, whether or not the others need the sum as well, so that
// every element of the model has exactly one rank of the world that owns its sum.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "comm/mesh.h"
#include "model/parameter_set.h"

namespace xmoe {

struct Bucket {
  std::size_t group = 0;  // in ParameterSet::groups()
  int stage = 0;          // the lowest in it: once backward has completed that one, the bucket is complete
  AxisRange whole;        // elements of the group's flat buffers
  AxisRange own;          // of those, the part of this rank
};

// Elements of a bucket, 128 MB of gradients in f32: a message to each of a hundred replicas is then still
// above a megabyte, long enough to be bound by bandwidth, and the copies that a transfer needs are small
// beside a model.
inline constexpr std::int64_t kBucketElements = std::int64_t{32} << 20;

// In the order in which backward completes them (of one stage, in the order of groups), which is the same on
// all ranks. Consecutive stages are merged until a bucket has `elements`.
std::vector<Bucket> plan_buckets(const ParameterSet& parameters, const Mesh& mesh, std::int64_t elements);

class GradientReduction {
 public:
  // With `scatter` only the own part of a bucket is to hold the sums, else all of it.
  GradientReduction(const ParameterSet& parameters, const Mesh& mesh, bool scatter, std::int64_t elements);

  std::span<const Bucket> buckets() const { return buckets_; }

  // Collective, as all below. Starts the sums of the buckets that are complete when stages from `stage` on
  // are.
  void start(int stage);
  // Starts what is not, and waits until the own parts hold their sums. The rest of the buckets may be on its
  // way until finish(), and must not be touched.
  void wait_own_parts();
  // Ends what is on its way.
  void finish();

  // Brings the own parts of the other ranks' values into bucket `index`; until finish().
  void start_gather(std::size_t index);

 private:
  Tensor whole(const Bucket& bucket, const Tensor& flat) const;
  Tensor own(const Bucket& bucket, const Tensor& flat) const;
  Communicator& ranks_of(const Bucket& bucket) const;

  const ParameterSet& parameters_;
  const Mesh& mesh_;
  bool scatter_;
  std::vector<Bucket> buckets_;
  std::size_t started_ = 0;                           // buckets whose sums are under way
  std::vector<std::unique_ptr<Transfer>> transfers_;  // of the sums, then of gathers, in order of their start
};

}  // namespace xmoe
