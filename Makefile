# Thin: what is compiled, and how, is said in CMakeLists.txt.

BUILD := build
SANITIZED := build-sanitize
CUDA := build-cuda
JOBS ?= $(shell nproc)
CMAKE_FLAGS ?=
# Sources of a room are compiled in batches, in half the time. Who edits and builds often may prefer one by one:
# CMAKE_FLAGS=-DCMAKE_UNITY_BUILD=OFF.
CONFIGURE := cmake -S . -G Ninja -DCMAKE_UNITY_BUILD=ON -DCMAKE_UNITY_BUILD_BATCH_SIZE=16
# Ops that have kernels.
GPU_BENCHMARKS := adamw attention cross_entropy elementwise embedding gather gemm grouped_mlp initial_values moe_layer \
  norm pft reduce rope router routing runs

.DEFAULT_GOAL := help
.PHONY: help build demo test bench bench-cluster sanitize cuda test-cuda bench-cuda lint clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build:  ## build build/xmoe, after installing what it needs
	tools/install_dependencies.sh build test
	$(CONFIGURE) -B $(BUILD) -DCMAKE_BUILD_TYPE=Release $(CMAKE_FLAGS)
	cmake --build $(BUILD) --target xmoe -j $(JOBS)

demo:  ## train a small MoE language model on real text, evaluate it and let it speak (some minutes)
	tools/demo.sh

test:  ## build and run all tests
	tools/install_dependencies.sh build test
	$(CONFIGURE) -B $(BUILD) -DCMAKE_BUILD_TYPE=Release $(CMAKE_FLAGS)
	cmake --build $(BUILD) -j $(JOBS)
	tools/run_tests.sh $(BUILD)

bench:  ## measure ops, MoE layer and training step against their bounds; writes build/bench.json
	tools/install_dependencies.sh build test
	$(CONFIGURE) -B $(BUILD) -DCMAKE_BUILD_TYPE=Release $(CMAKE_FLAGS)
	cmake --build $(BUILD) --target xmoe_bench xmoe_dispatch_bench -j $(JOBS)
	tools/run_benchmarks.sh $(BUILD)

bench-cluster:  ## measure dispatchers and layouts on emulated nodes with limited links (needs root); writes build/bench-cluster.json
	tools/install_dependencies.sh build test cluster
	$(CONFIGURE) -B $(BUILD) -DCMAKE_BUILD_TYPE=Release $(CMAKE_FLAGS)
	cmake --build $(BUILD) --target xmoe_dispatch_bench xmoe_layout_bench -j $(JOBS)
	tools/bench_cluster.py $(BUILD)

# Debug without NDEBUG, so that the checks of hot loops run too. Kernels run on an emulated GPU.
sanitize:  ## run the unit tests, but for those of commands, under AddressSanitizer and UndefinedBehaviorSanitizer
	tools/install_dependencies.sh build test
	$(CONFIGURE) -B $(SANITIZED) -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG= \
	  -DXMOE_BENCHMARKS=OFF -DXMOE_SANITIZE=address,undefined -DXMOE_GPU_EMULATED=ON $(CMAKE_FLAGS)
	cmake --build $(SANITIZED) --target unit_tests -j $(JOBS)
	tools/run_tests.sh $(SANITIZED) -L unit

cuda:  ## build build-cuda/xmoe, which runs on NVIDIA GPUs too (needs the CUDA toolkit, 13 or later)
	tools/install_dependencies.sh cuda test
	$(CONFIGURE) -B $(CUDA) -DCMAKE_BUILD_TYPE=Release -DXMOE_CUDA=ON $(CMAKE_FLAGS)
	cmake --build $(CUDA) --target xmoe -j $(JOBS)

test-cuda:  ## run the tests that use a GPU; fails where there is none
	@nvidia-smi -L 2>/dev/null || test -e /dev/nvidia0 || { echo "make test-cuda: this machine has no GPU, or no driver for it"; exit 1; }
	$(MAKE) cuda
	cmake --build $(CUDA) --target unit_tests distributed_collectives_test distributed_test killed_collective -j $(JOBS)
	XMOE_REQUIRE_GPU=1 tools/run_tests.sh $(CUDA) -R '[/_]gpu$$' --no-tests=error

bench-cuda: cuda  ## measure the kernels against copies within the GPU and the vendor's products; writes build-cuda/bench.json
	cmake --build $(CUDA) --target xmoe_bench xmoe_gpu_timeline -j $(JOBS)
	$(CUDA)/xmoe_bench --device cuda --json $(CUDA)/bench.json $(GPU_BENCHMARKS)

lint:  ## check format, clang-tidy and the rules of the house
	tools/install_dependencies.sh build test lint
	$(CONFIGURE) -B $(BUILD) -DCMAKE_BUILD_TYPE=Release $(CMAKE_FLAGS)
	$(if $(wildcard $(CUDA)/CMakeCache.txt),cmake $(CUDA))
	tools/lint.sh $(BUILD) $(if $(wildcard $(CUDA)/CMakeCache.txt),$(CUDA))

clean:  ## remove what was built; demo/ stays
	rm -rf $(BUILD) $(SANITIZED) $(CUDA)
