"""The task `fever`: FEVER, claims and three labels; see `benchmark`."""

from btr_jax.tasks import benchmark

TASK = benchmark.register('fever')
