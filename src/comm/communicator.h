// A group of ranks and the collectives among them. Every rank of a group calls the same collectives in the
// same order, whatever its counts: zero rows are an ordinary case. Calls block until the result is usable,
// but for those named start_*, which return a Transfer. One thread of a process makes all calls.
//
// Sums are taken in rank order whatever algorithm moves the bytes, so that the same inputs give the same
// bits; bf16 and f16 are summed in f32.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "device/context.h"
#include "device/tensor.h"

namespace xmoe {

enum class ReduceOp : std::uint8_t { sum, max, min };

// What this rank sent through one communicator, without what it sent to itself.
struct Traffic {
  std::int64_t calls = 0;
  std::int64_t bytes_sent = 0;
  std::int64_t bytes_between_nodes = 0;  // of those, what went to ranks of other nodes
};

// One buffer of an uneven exchange. Rows of the leading dimension: send holds the rows for rank 0, then for
// rank 1, ...; recv is filled in the same order. A rank's rows to itself travel by a plain copy.
struct ExchangePart {
  Tensor send;                              // [sum of send_rows, ...]
  std::span<const std::int64_t> send_rows;  // [size]
  Tensor recv;                              // [sum of recv_rows, ...]
  std::span<const std::int64_t> recv_rows;  // [size]
};

// A collective under way. wait() returns when its result is usable and its inputs may be overwritten;
// destruction waits too. It must end before its group does.
class Transfer {
 public:
  virtual ~Transfer() = default;
  virtual void wait() = 0;  // a second call does nothing
};

class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual const std::string& name() const = 0;  // of the group: "world", "ep", ...

  virtual void all_reduce(const Tensor& values, ReduceOp op) = 0;  // in place; floats, i64
  virtual void all_gather(const Tensor& input,                     // [n, ...]
                          const Tensor& output) = 0;               // [size * n, ...], by rank
  virtual void reduce_scatter(const Tensor& input,                 // [size * n, ...]
                              const Tensor& output) = 0;       // [n, ...]: sum over ranks of this rank's part
  virtual void broadcast(const Tensor& values, int root) = 0;  // in place
  virtual void all_to_all_v(const Tensor& send, std::span<const std::int64_t> send_rows, const Tensor& recv,
                            std::span<const std::int64_t> recv_rows) = 0;  // one ExchangePart
  // Several buffers in one round of messages, which goes on while the caller computes. Buffers must stay
  // until the end of the transfer; the counts are copied. Transfers may overlap each other and other
  // collectives of any group; all ranks start them in the same order.
  virtual std::unique_ptr<Transfer> start_exchange(std::span<const ExchangePart> parts) = 0;
  // The same for sums and gathers, for instance of buckets of gradients. `input` must stay as it is and
  // `output` must not be touched until the end of the transfer; sums are taken by wait(), in rank order, in
  // memory that the transfer brings along. `output` of the first may be this rank's part of `input`; `input`
  // of the second may be this rank's part of `output`.
  virtual std::unique_ptr<Transfer> start_reduce_scatter(const Tensor& input,        // [size * n, ...]
                                                         const Tensor& output) = 0;  // [n, ...]; floats, i64
  virtual std::unique_ptr<Transfer> start_all_gather(const Tensor& input,            // [n, ...]
                                                     const Tensor& output) = 0;      // [size * n, ...]
  virtual void barrier() = 0;  // all ranks have come here, and what they had queued on their devices is done
  // Ranks with the same color form a group, ordered by key, then by rank here.
  virtual std::unique_ptr<Communicator> split(int color, int key, const std::string& name) = 0;
  // Ranks that share memory, in order of rank here.
  virtual std::unique_ptr<Communicator> split_by_memory(const std::string& name) = 0;

  // The node of each rank, for the account of traffic and for those who route by it; groups split from this
  // one inherit it. Empty: not known, all on one. See comm/topology.h.
  std::span<const int> nodes() const { return nodes_; }
  virtual void set_nodes(std::vector<int> nodes) { nodes_ = std::move(nodes); }  // the same on all ranks
  bool on_other_node(int rank) const {
    return !nodes_.empty() &&
           nodes_[static_cast<std::size_t>(rank)] != nodes_[static_cast<std::size_t>(this->rank())];
  }

  virtual const Traffic& traffic() const = 0;
  virtual const Arena& scratch() const = 0;  // where blocking reductions are summed
  // All memory that this group holds: scratch() and what transfers brought along, which later ones reuse.
  virtual std::vector<const Arena*> arenas() const { return {&scratch()}; }

  // Conveniences built from the above, for host-side values.
  double all_reduce(double value, ReduceOp op);  // sum in rank order, in double
  std::int64_t all_reduce(std::int64_t value, ReduceOp op);
  std::vector<std::string> all_gather_text(const std::string& text);

 private:
  std::vector<int> nodes_;
};

// The collective that this process is in at the moment ("all_to_all_v of the group ep (layer 3)"), or
// nothing. Callable from any thread. comm/pending.h has the particulars.
std::string pending_operation();

// Whether transfers advance while the caller computes and is not in a collective: the message layer allows a
// thread of its own (MPI_THREAD_MULTIPLE). Without it they still end with wait().
bool asynchronous_progress();

// The communicator of a single process, for tensors of the host and of `device`.
std::unique_ptr<Communicator> make_self_communicator(const std::string& name = "world",
                                                     const Device& device = {});

// Starts the message layer that the launcher of this process asks for (mpirun, srun: MPI; torchrun: TCP;
// none: a single process) and ends it on destruction. Groups split from world() must be gone by then, and
// errors handled: one rank that leaves waits for the others.
class CommunicationSession {
 public:
  CommunicationSession(int* argc, char*** argv);
  ~CommunicationSession();
  CommunicationSession(const CommunicationSession&) = delete;
  CommunicationSession& operator=(const CommunicationSession&) = delete;

  Communicator& world() { return *world_; }
  [[noreturn]] void abort(int exit_code);  // ends all ranks at once

 private:
  enum class Layer : std::uint8_t { none, mpi, tcp };

  std::unique_ptr<Communicator> world_;
  Layer layer_ = Layer::none;
};

}  // namespace xmoe
