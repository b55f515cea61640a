"""The task `mmlu`: MMLU, four choices; see `benchmark`."""

from btr_jax.tasks import benchmark

TASK = benchmark.register('mmlu')
