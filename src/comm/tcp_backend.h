// The message layer of processes that torchrun started: TCP connections between all of them.
#pragma once

#include <memory>

#include "comm/communicator.h"
#include "comm/tcp_links.h"
#include "comm/tcp_rendezvous.h"

namespace xmoe::tcp {

// Finds the other ranks and connects with them. Throws Error.
std::unique_ptr<Communicator> start(const Launch& launch);
void finish() noexcept;  // waits for the others to end
[[noreturn]] void abort(int exit_code) noexcept;

// All ranks of some links; what start() makes.
std::unique_ptr<Communicator> make_world(std::shared_ptr<Links> links);

}  // namespace xmoe::tcp
