"""The task `webquestions`: WebQuestions; see `benchmark`."""

from btr_jax.tasks import benchmark

TASK = benchmark.register('webquestions')
