"""The task `nq`: Natural Questions, open; see `benchmark`."""

from btr_jax.tasks import benchmark

TASK = benchmark.register('nq')
