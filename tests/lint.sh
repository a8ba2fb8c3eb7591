#!/bin/sh
# Layering: apps > model > {engine, io}; io sees only error/dtype/tensor of engine; engine sees neither model nor io.
set -u
cd "$(dirname "$0")/.."
bad=0
say() { [ -z "$1" ] || { printf "lint: %s\n%s\n" "$2" "$1" >&2; bad=1; }; }
say "$(grep -nE "#include \"(io|model|apps)/" -r engine)" "engine includes io, model or apps"
say "$(grep -nE "#include \"(model|apps|cuda)/" -r io)" "io includes model, apps or cuda"
say "$(grep -nE "#include \"engine/" -r io | grep -vE "engine/(error|dtype|tensor)\.h\"")" "io may see only engine/{error,dtype,tensor}.h"
say "$(grep -nE "#include \"apps/" -r model)" "model includes apps"
say "$(grep -nE "cuda_runtime|cublas" -r engine io model apps)" "CUDA headers outside cuda/"
# Objects built for one instruction set must not define what other objects could share: the linker keeps one copy of an
# inline function, and an AVX copy crashes a machine without AVX. What they offer is their tables.
for o in "${BUILD:-build}"/engine/cpu/isa/*.o; do
  [ -f "$o" ] || continue
  say "$(nm -C --defined-only "$o" | grep -E " [A-Zuvw] " | grep -vE " [RDB] sutor::cpu::k[A-Za-z0-9]+$")" "$o defines shared symbols"
done
exit $bad
