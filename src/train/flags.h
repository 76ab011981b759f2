// The flags of the subcommands, declared group by group in *_flags.cpp. A table refers to the configuration
// that it was made for.
#pragma once

#include <string>
#include <string_view>

#include "train/config.h"
#include "train/flag_table.h"

namespace xmoe {

FlagTable train_flags(TrainConfig& config);
FlagTable eval_flags(EvalConfig& config);
FlagTable generate_flags(GenerateConfig& config);

// The groups that train_flags() consists of.
void add_model_flags(FlagTable& table, ModelConfig& model);
void add_moe_flags(FlagTable& table, MoeConfig& moe, ModelConfig& model);
void add_data_flags(FlagTable& table, DataConfig& data);
void add_batch_flags(FlagTable& table, BatchConfig& batch);
void add_optimizer_flags(FlagTable& table, OptimizerConfig& optimizer, DType& expert_gradients);
// How a model is spread over ranks, for every command that runs one.
void add_layout_flags(FlagTable& table, ParallelLayout& layout, std::int64_t& ranks_per_node,
                      double& timeout_minutes);
void add_parallel_flags(FlagTable& table, ParallelConfig& parallel);  // those, and what only training has
void add_device_flag(FlagTable& table, DeviceConfig& device);
void add_recompute_flags(FlagTable& table, RecomputeConfig& recompute);
void add_run_flags(FlagTable& table,
                   TrainConfig& config);  // the last two, precision, logging, evaluation, checkpoints, exit
void add_compatibility_flags(FlagTable& table);  // of Megatron's and X-MoE's scripts
void add_data_path_flag(FlagTable& table, std::vector<DataSource>& sources);
void add_split_flag(FlagTable& table, std::optional<std::array<double, 3>>& split);

// A configuration as text, for checkpoints: to_text() is what --config reads.
std::string to_text(const TrainConfig& config);
TrainConfig train_config_from_text(std::string_view text, const std::string& source);  // throws Error

}  // namespace xmoe
