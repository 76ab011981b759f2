// Collectives of a GPU's tensors through pinned host memory and the host's group: copy there, collective,
// copy back. The host waits in each; sums have the bits of the host's.
#include <cstddef>
#include <exception>
#include <utility>
#include <vector>

#include "base/log.h"
#include "comm/device_collectives.h"
#include "device/gpu.h"

namespace xmoe::gpu {

namespace {

// Pinned host memory, which is kept for later collectives: in a steady state nothing is allocated.
class Staging {
 public:
  Staging() = default;
  ~Staging() {
    for (const Buffer& b : buffers_) static_cast<void>(XMOE_GPU_NAME(FreeHost)(b.data));
  }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  // The smallest that has room, else a new one in the place of one that has not.
  void* take(std::size_t bytes) {
    Buffer* best = nullptr;
    Buffer* small = nullptr;
    for (Buffer& b : buffers_) {
      if (b.taken) continue;
      if (b.size >= bytes && (best == nullptr || b.size < best->size)) best = &b;
      if (b.size < bytes) small = &b;
    }
    if (best == nullptr && small != nullptr) {
      check(XMOE_GPU_NAME(FreeHost)(std::exchange(small->data, nullptr)), "giving back pinned memory");
      best = small;
      best->size = 0;
    } else if (best == nullptr) {
      best = &buffers_.emplace_back();
    }
    if (best->data == nullptr) {
      check(XMOE_GPU_NAME(HostAlloc)(&best->data, bytes + bytes / 4, XMOE_GPU_NAME(HostAllocDefault)),
            "allocating pinned memory for a collective");
      best->size = bytes + bytes / 4;
    }
    best->taken = true;
    return best->data;
  }
  void give_back(const void* data) {
    for (Buffer& b : buffers_)
      if (b.data == data) b.taken = false;
  }

 private:
  struct Buffer {
    void* data = nullptr;
    std::size_t size = 0;
    bool taken = false;
  };
  std::vector<Buffer> buffers_;
};

// The host's image of a tensor.
class Image {
 public:
  Image(Staging& staging, const Tensor& tensor) : staging_(&staging), there_(tensor) {
    here_ = Tensor(staging.take(tensor.bytes() + 1), tensor.dtype(), tensor.shape());
  }
  ~Image() {
    if (staging_ != nullptr) staging_->give_back(here_.raw());
  }
  Image(Image&& other) noexcept
      : staging_(std::exchange(other.staging_, nullptr)), there_(other.there_), here_(other.here_) {}
  Image& operator=(Image&&) = delete;

  const Tensor& host() const { return here_; }
  Image& fetch() {
    device_copy(there_.device(), there_.raw(), Device{}, here_.raw(), here_.bytes());
    return *this;
  }
  void store() const { device_copy(Device{}, here_.raw(), there_.device(), there_.raw(), here_.bytes()); }

 private:
  Staging* staging_;
  Tensor there_;
  Tensor here_;
};

class StagedTransfer final : public Transfer {
 public:
  ~StagedTransfer() override {
    // When an error unwinds the transfer of the host's ends by itself, and there is nothing to copy.
    if (std::uncaught_exceptions() > exceptions_) return;
    try {
      wait();
    } catch (const std::exception& error) {
      log::error("{}", error.what());
    }
  }

  std::vector<Image> inputs, outputs;
  std::unique_ptr<Transfer> host;  // last: it ends before its buffers go

  void wait() override {
    if (host == nullptr) return;
    host->wait();
    host.reset();
    for (const Image& output : outputs) output.store();
    inputs.clear();
    outputs.clear();
  }

 private:
  int exceptions_ = std::uncaught_exceptions();
};

class StagedCollectives final : public DeviceCollectives {
 public:
  explicit StagedCollectives(Communicator& host) : host_(host) {}

  void all_reduce(const Tensor& values, ReduceOp op) override {
    Image image(staging_, values);
    host_.all_reduce(image.fetch().host(), op);
    image.store();
  }
  void broadcast(const Tensor& values, int root) override {
    Image image(staging_, values);
    host_.broadcast(image.fetch().host(), root);
    image.store();
  }
  std::unique_ptr<Transfer> all_gather(const Tensor& input, const Tensor& output, Start start) override {
    auto transfer = with(input, output);
    transfer->host =
        host_.start_all_gather(transfer->inputs.front().host(), transfer->outputs.front().host());
    return ended_if(start == Start::blocking, std::move(transfer));
  }
  std::unique_ptr<Transfer> reduce_scatter(const Tensor& input, const Tensor& output, Start start) override {
    auto transfer = with(input, output);
    transfer->host =
        host_.start_reduce_scatter(transfer->inputs.front().host(), transfer->outputs.front().host());
    return ended_if(start == Start::blocking, std::move(transfer));
  }
  std::unique_ptr<Transfer> exchange(std::span<const ExchangePart> parts, Start start) override {
    auto transfer = std::make_unique<StagedTransfer>();
    std::vector<ExchangePart> staged(parts.begin(), parts.end());
    for (ExchangePart& p : staged) {
      p.send = transfer->inputs.emplace_back(staging_, p.send).fetch().host();
      p.recv = transfer->outputs.emplace_back(staging_, p.recv).host();
    }
    transfer->host = host_.start_exchange(staged);
    return ended_if(start == Start::blocking, std::move(transfer));
  }

  Traffic traffic() const override { return {}; }
  const Arena& scratch() const override { return host_.scratch(); }

 private:
  std::unique_ptr<StagedTransfer> with(const Tensor& input, const Tensor& output) {
    auto transfer = std::make_unique<StagedTransfer>();
    transfer->inputs.emplace_back(staging_, input).fetch();
    transfer->outputs.emplace_back(staging_, output);
    return transfer;
  }
  static std::unique_ptr<Transfer> ended_if(bool blocking, std::unique_ptr<Transfer> transfer) {
    if (blocking) transfer->wait();
    return transfer;
  }

  Communicator& host_;
  Staging staging_;
};

}  // namespace

std::unique_ptr<DeviceCollectives> make_staged_collectives(Communicator& host, const Device&) {
  return std::make_unique<StagedCollectives>(host);
}

}  // namespace xmoe::gpu
