// A table of flags as options of a subcommand: from the command line, and from the files of --config below
// it.
#pragma once

#include <CLI/CLI.hpp>

#include <string>
#include <utility>
#include <vector>

#include "comm/communicator.h"
#include "train/flag_table.h"

namespace xmoe {

class FlagOptions {
 public:
  // `table` refers to a configuration that lives as long as this object; `command` refers to this object.
  FlagOptions(CLI::App& command, FlagTable table);
  FlagOptions(const FlagOptions&) = delete;
  FlagOptions& operator=(const FlagOptions&) = delete;

  // After parsing: sets the configuration, files first in their order, then what the command line gave.
  // Unknown flags become problems of the table. Throws Error for a file that cannot be read.
  void apply();

  // Throws Error on all ranks when some rank has other settings than rank 0, for instance from a file of its
  // own: ranks of different settings would wait for each other.
  void expect_same(Communicator& world) const;

  const FlagTable& table() const { return table_; }

 private:
  void add_option(const Flag& flag);
  void assign_unknown(const std::vector<std::string>& arguments);

  CLI::App& command_;
  FlagTable table_;
  std::vector<std::string> files_;
  std::vector<std::pair<std::string, std::vector<std::string>>> given_;
};

}  // namespace xmoe
