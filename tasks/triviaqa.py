"""The task `triviaqa`: TriviaQA, unfiltered; see `benchmark`."""

from btr_jax.tasks import benchmark

TASK = benchmark.register('triviaqa')
