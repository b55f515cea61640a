#!/bin/sh
# The speed figures on an accelerator, in one command and without TensorFlow:
#
#   sh tools/benchmark_accelerator.sh FOLDER
#
# Runs from a checkout; installs nothing. It needs jax for the accelerator,
# flax, jaxtyping, tensorstore, numpy and rich; matplotlib for the pictures.
set -eu
cd "$(dirname "$0")/.."
output=${1:-${OUT:-benchmark_results}}
mkdir -p "$output"
# tasks, tools and gin_configs install under btr_jax; here they are linked.
for name in tasks tools gin_configs; do
  [ -e "btr_jax/$name" ] || ln -s "../$name" "btr_jax/$name"
done
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
run() {
  name=$1
  shift
  ${PYTHON:-python3} -m btr_jax.tools.main benchmark \
    --output "$output/$name.json" --plot "$output/$name.png" "$@" |
    grep -v '^{'
}

# The figures: 40 passages of 128 tokens, answers of 8, batch 1 and 16.
for size in base large; do
  run "$size" --size "$size" --passages 40 --batch 1,16 --repeats 20 \
    --cross reproject,cached,absorbed --merge 0.2 --merge-places intra,both
done
# Linear in passages and in batch.
run base_passages --size base --passages 5,10,20,40,100 --batch 4 \
  --repeats 10 --modes joint,binary
run base_batch --size base --passages 20 --batch 1,4,16,64 \
  --repeats 10 --modes joint,binary
