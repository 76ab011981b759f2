#include <utility>

#include "base/error.h"
#include "comm/nccl_group_gpu.h"
#include "comm/pending.h"

namespace xmoe::gpu {

namespace {

[[noreturn]] void fail_in(const char* operation, const std::string& group, ncclResult_t result,
                          ncclComm_t comm) {
  const std::string detail = ncclGetLastError(comm);
  fail("NCCL failed in {} of the group {}: {}{}{}", operation, group, ncclGetErrorString(result),
       detail.empty() ? "" : ": ", detail);
}

void check_health(ncclComm_t comm, const char* operation, const std::string& group) {
  ncclResult_t state = ncclSuccess;
  ncclCommGetAsyncError(comm, &state);
  if (state != ncclSuccess && state != ncclInProgress) fail_in(operation, group, state, comm);
}

class QueuedCollective final : public QueuedWork {
 public:
  QueuedCollective(std::shared_ptr<Event> end, ncclComm_t comm, const char* operation, std::string group)
      : end_(std::move(end)), comm_(comm), operation_(operation), group_(std::move(group)) {}

  bool finished() override {
    if (end_->reached()) return true;
    check_health(comm_, operation_, group_);
    return false;
  }

 private:
  std::shared_ptr<Event> end_;
  ncclComm_t comm_;
  const char* operation_;
  std::string group_;
};

}  // namespace

Event::Event(Stream stream) {
  gpu::check(XMOE_GPU_NAME(EventCreateWithFlags)(&event_, XMOE_GPU_NAME(EventDisableTiming)),
             "making an event");
  gpu::check(XMOE_GPU_NAME(EventRecord)(event_, stream), "recording an event");
}

Event::~Event() { static_cast<void>(XMOE_GPU_NAME(EventDestroy)(event_)); }

bool Event::reached() const {
  const Status status = XMOE_GPU_NAME(EventQuery)(event_);
  if (status == XMOE_GPU_NAME(ErrorNotReady)) {
    static_cast<void>(XMOE_GPU_NAME(GetLastError)());  // no error, and nobody should take it for one
    return false;
  }
  gpu::check(status, "waiting for a collective");
  return true;
}

void Event::hold_up(Stream stream) const {
  gpu::check(XMOE_GPU_NAME(StreamWaitEvent)(stream, event_, 0), "queueing behind an event");
}

NcclGroup::NcclGroup(Communicator& host, const Device& device)
    : name_(host.name()), compute_(gpu::stream(device)) {
  ncclUniqueId id{};
  if (host.rank() == 0) check(ncclGetUniqueId(&id), "the start");
  host.broadcast(Tensor(&id, DType::u8, {static_cast<std::int64_t>(sizeof id)}), 0);
  const PendingScope pending("the start of NCCL", name_);
  check(ncclCommInitRank(&comm_, host.size(), id, host.rank()), "the start");
  // Before what computes: transfers are short of nothing but time.
  int least = 0;
  int greatest = 0;
  gpu::check(XMOE_GPU_NAME(DeviceGetStreamPriorityRange)(&least, &greatest), "asking for priorities");
  gpu::check(XMOE_GPU_NAME(StreamCreateWithPriority)(&own_, XMOE_GPU_NAME(StreamNonBlocking), greatest),
             "creating a stream");
}

NcclGroup::~NcclGroup() {
  forget_queued(this);
  if (comm_ != nullptr) {
    const PendingScope pending("the end of NCCL", name_);
    if (std::uncaught_exceptions() > exceptions_) {
      ncclCommAbort(comm_);  // what is queued may wait for ranks that will not come
    } else {
      ncclCommDestroy(comm_);
    }
  }
  if (own_ != nullptr) static_cast<void>(XMOE_GPU_NAME(StreamDestroy)(own_));
}

void NcclGroup::check(ncclResult_t result, const char* operation) const {
  if (result != ncclSuccess) fail_in(operation, name_, result, comm_);
}

NcclGroup::Opening::Opening(NcclGroup& g, const char* op, bool under_way)
    : group(g), operation(op), stream(under_way ? g.own_ : g.compute_) {
  if (under_way) Event(g.compute_).hold_up(stream);  // the arguments are there
  if (g.last_ != nullptr && g.last_stream_ != stream) g.last_->hold_up(stream);
  group.check(ncclGroupStart(), operation);
}

NcclGroup::Opening::~Opening() {
  if (open) ncclGroupEnd();  // an error unwinds
}

std::shared_ptr<Event> NcclGroup::Opening::close() {
  open = false;
  {
    // NCCL connects ranks when they first send to each other, and waits for them.
    const PendingScope pending(operation, group.name_);
    group.check(ncclGroupEnd(), operation);
  }
  auto end = std::make_shared<Event>(stream);
  group.last_ = end;
  group.last_stream_ = stream;
  watch_queued(std::make_unique<QueuedCollective>(end, group.comm_, operation, group.name_), operation,
               group.name_, &group);
  return end;
}

}  // namespace xmoe::gpu
