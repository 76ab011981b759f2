#!/usr/bin/env bash
# Installs what the given parts of this project need and the machine lacks.
#
#   tools/install_dependencies.sh [build] [cuda] [test] [demo] [lint] [cluster] [slurm]     (none given: build)
#
# Debian and Ubuntu: with apt-get, through sudo when not root. Other systems: the programs and headers are looked
# for, and what is missing is listed. Nothing is done, in a fraction of a second, when everything is there.
set -euo pipefail

parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(build)

packages=()
programs=()
headers=()
cudnn_frontend=0
for part in "${parts[@]}"; do
  case "$part" in
    build)
      packages+=(make g++ cmake ninja-build pkg-config ccache libopenmpi-dev openmpi-bin libdnnl-dev libcli11-dev
                 nlohmann-json3-dev libfmt-dev libpcre2-dev libxxhash-dev)
      programs+=(g++ cmake ninja pkg-config mpicc mpirun)
      headers+=(oneapi/dnnl/dnnl.hpp CLI/CLI.hpp nlohmann/json.hpp fmt/core.h pcre2.h xxhash.h) ;;
    cuda)  # oneDNN is for the CPU; the toolkit and cuDNN are the vendor's, and CMake looks for them
      cudnn_frontend=1
      packages+=(make g++ cmake ninja-build pkg-config ccache libopenmpi-dev openmpi-bin libcli11-dev
                 nlohmann-json3-dev libfmt-dev libpcre2-dev libxxhash-dev python3-pip)
      programs+=(g++ cmake ninja pkg-config mpicc mpirun nvcc python3)
      headers+=(CLI/CLI.hpp nlohmann/json.hpp fmt/core.h pcre2.h xxhash.h) ;;
    test)
      packages+=(libgtest-dev)
      headers+=(gtest/gtest.h) ;;
    demo)
      packages+=(bible-kjv)
      programs+=(bible) ;;
    lint)  # libomp-dev: the omp.h that clang looks for
      packages+=(clang-format clang-tidy libomp-dev python3)
      programs+=(clang-format clang-tidy python3) ;;
    cluster)  # emulated nodes: tools/cluster.sh
      packages+=(iproute2 openmpi-bin python3)
      programs+=(ip tc mpirun python3) ;;
    slurm)  # a Slurm of this machine's own: tools/slurm_local.sh
      packages+=(slurm-wlm munge)
      programs+=(slurmctld slurmd munged) ;;
    *)
      echo "install_dependencies: unknown part '$part': expected build, cuda, test, demo, lint, cluster or slurm" >&2
      exit 2 ;;
  esac
done

install_with_apt() {
  local missing=() package
  for package in "${packages[@]}"; do
    if [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" != installed ]; then
      missing+=("$package")
    fi
  done
  [ ${#missing[@]} -gt 0 ] || return 0

  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
      echo "install_dependencies: these packages are missing and there is no sudo. As root, run:" >&2
      echo "  apt-get update && apt-get install -y --no-install-recommends ${missing[*]}" >&2
      exit 1
    fi
    as_root=(sudo)
  fi
  echo "Installing: ${missing[*]}"
  # The lists of a fresh container are empty or old, so they are fetched first; a failure here (one mirror of
  # several, say) only matters if the installation then fails.
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq || true
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    "${missing[@]}" >/dev/null
}

look_for() {
  local missing=() program header
  for program in "${programs[@]}"; do
    command -v "$program" >/dev/null || missing+=("$program (program)")
  done
  for header in "${headers[@]}"; do
    if ! echo "#include <$header>" | "${CXX:-c++}" -std=c++20 -DPCRE2_CODE_UNIT_WIDTH=8 -E -x c++ - >/dev/null 2>&1
    then
      missing+=("$header (header)")
    fi
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  echo "install_dependencies: this is not a Debian system, so please install these by hand:" >&2
  printf '  %s\n' "${missing[@]}" >&2
  echo "They come from: GCC 12 or later, CMake 3.25, Ninja, Open MPI, oneDNN (CPU), CLI11, nlohmann-json, fmt 9," >&2
  echo "PCRE2, xxHash; for tests GoogleTest; for the demo bible-kjv; for lint LLVM and Python 3;" >&2
  echo "for emulated nodes iproute2; for the test of the Slurm example Slurm and munge." >&2
  exit 1
}

# cuDNN's interface for C++, headers only. No distribution has it; the vendor puts it on PyPI, in a package for
# Python of which only the headers are kept. They go into a folder of the checkout that git ignores.
fetch_cudnn_frontend() {
  local version=1.32.0 folder
  folder="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/build-dependencies/cudnn-frontend"
  [ "$(cat "$folder/version" 2>/dev/null)" != "$version" ] || return 0
  echo "Fetching the headers of cudnn-frontend $version"
  local scratch machine
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' RETURN
  machine=$(uname -m)
  if ! python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --implementation cp --python-version 3.11 --platform "manylinux_2_27_$machine" \
    --platform "manylinux_2_28_$machine" --dest "$scratch" "nvidia-cudnn-frontend==$version"
  then
    echo "install_dependencies: cudnn-frontend could not be fetched from PyPI. Without it, put its folder include" >&2
    echo "anywhere and build with -DCUDNN_FRONTEND_INCLUDE_DIR=..., or with -DXMOE_CUDNN=OFF (slower attention):" >&2
    echo "make cuda CMAKE_FLAGS=-DXMOE_CUDNN=OFF takes either" >&2
    return 0  # CMake ends with the same advice where it lacks the headers
  fi
  python3 -m zipfile -e "$scratch"/nvidia_cudnn_frontend-*.whl "$scratch/wheel"
  rm -rf "$folder"
  mkdir -p "$folder"
  mv "$scratch/wheel/include" "$folder/include"
  echo "$version" >"$folder/version"
}

if command -v apt-get >/dev/null && command -v dpkg-query >/dev/null; then
  install_with_apt
else
  look_for
fi
if [ "$cudnn_frontend" -eq 1 ]; then fetch_cudnn_frontend; fi
