// One communicator of NCCL with its streams, and the order of what is queued on them. Included by
// nccl_*_gpu.cu only, which alone know NCCL.
#pragma once

#include <nccl.h>

#include <exception>
#include <memory>
#include <string>

#include "comm/communicator.h"
#include "device/gpu.h"

namespace xmoe::gpu {

// A point in a stream. May be destroyed, and asked, by any thread.
class Event {
 public:
  explicit Event(Stream stream);  // behind all that is queued there
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  bool reached() const;
  void hold_up(Stream stream) const;  // what is queued there from now on comes behind the point

 private:
  XMOE_GPU_NAME(Event_t) event_ = nullptr;
};

class NcclGroup {
 public:
  // Collective: connects the GPUs of the host's group.
  NcclGroup(Communicator& host, const Device& device);
  // Waits for what is queued; when an error unwinds, ends it.
  ~NcclGroup();
  NcclGroup(const NcclGroup&) = delete;
  NcclGroup& operator=(const NcclGroup&) = delete;

  // Queues one collective: queue(comm, stream) calls NCCL, for `operation`. It goes on the device's stream,
  // or, under way, on the group's own. Returns its end. Collectives of a group run in the order in which they
  // are queued, on whichever stream.
  template <typename F>
  std::shared_ptr<Event> run(const char* operation, bool under_way, F queue) {
    Opening opening(*this, operation, under_way);
    queue(comm_, opening.stream);
    return opening.close();
  }
  // The device's stream goes on when the collective has ended.
  void hold_up_device(const Event& end) const { end.hold_up(compute_); }

  void check(ncclResult_t result, const char* operation) const;

 private:
  // What is around the calls of NCCL.
  struct Opening {
    Opening(NcclGroup& group, const char* operation, bool under_way);
    ~Opening();
    Opening(const Opening&) = delete;
    Opening& operator=(const Opening&) = delete;
    std::shared_ptr<Event> close();

    NcclGroup& group;
    const char* operation;
    Stream stream;
    bool open = true;
  };

  std::string name_;
  ncclComm_t comm_ = nullptr;
  Stream compute_ = nullptr;  // the device's
  Stream own_ = nullptr;
  std::shared_ptr<Event> last_;  // the end of the last collective
  Stream last_stream_ = nullptr;
  int exceptions_ = std::uncaught_exceptions();  // under way when this began
};

}  // namespace xmoe::gpu
