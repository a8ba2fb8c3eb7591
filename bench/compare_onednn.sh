#!/bin/sh
# Sutor's kernels against oneDNN: dense products and a MoE layer of DeepSeek-V2-Lite, interleaved in one process.
#
#   bench/compare_onednn.sh [THREADS] [REPEATS]
#
# Needs libdnnl-dev (Debian) and a built tree (make). Nothing else should run on the machine.
set -eu
cd "$(dirname "$0")/.."
[ -f /usr/include/oneapi/dnnl/dnnl.hpp ] || { echo "compare_onednn: apt-get install libdnnl-dev" >&2; exit 1; }
make build/sutor >/dev/null
g++ -std=c++20 -O3 -march=native -fopenmp -I. bench/compare_onednn.cpp $(ls build/engine/*.o build/engine/cpu/*.o build/engine/cpu/isa/*.o \
  build/engine/ops/*.o build/cuda/*.o) -o build/compare_onednn -ldnnl -lfmt -pthread
build/compare_onednn "${1:-2}" "${2:-11}"
