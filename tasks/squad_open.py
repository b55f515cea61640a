"""The task `squad_open`: SQuAD 1.1, without its paragraphs; see `benchmark`."""

from btr_jax.tasks import benchmark

TASK = benchmark.register('squad_open')
