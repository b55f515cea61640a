#!/bin/sh
# The speed figures on an accelerator, in one command and without TensorFlow:
#
#   sh tools/benchmark_accelerator.sh FOLDER [--budget SECONDS] [...]
#
# It stops in time (540 seconds unless told otherwise), does the most important
# rows first and writes a record after every group of rows.
#
# Runs from a checkout; installs nothing. It needs jax for the accelerator,
# flax, jaxtyping, tensorstore, numpy and rich.
set -eu
cd "$(dirname "$0")/.."
# tasks, tools and gin_configs install under btr_jax; here they are linked.
for name in tasks tools gin_configs; do
  [ -e "btr_jax/$name" ] || ln -s "../$name" "btr_jax/$name"
done
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
exec ${PYTHON:-python3} -m btr_jax.tools.main benchmark-accelerator "$@"
