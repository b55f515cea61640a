"""The mixture `open_qa`, and mixtures whose epochs are exact.

SeqIO samples from the tasks of a mixture by rates, shard by shard, so that an
epoch has no certain end and shards may lose examples of it. Here the records
of all tasks are one list: every epoch has each of them once, in an order by
seed, and processes share each step as they do with a single task.
"""

import seqio
import tensorflow as tf

from btr_jax.data.benchmarks import table
from btr_jax.tasks import (  # noqa: F401 (they register the tasks)
  benchmark,
  fever,
  mmlu,
  nq,
  squad_open,
  triviaqa,
  webquestions,
)

OPEN_QA = ('nq', 'triviaqa', 'webquestions')


class ExactMixture(seqio.Mixture):
  """Tasks of `benchmark` in proportion to their sizes."""

  def get_dataset(
    self,
    sequence_length=None,
    split: str = 'train',
    use_cached: bool = False,
    shuffle: bool = True,
    seed: int | None = None,
    shard_info: seqio.ShardInfo | None = None,
    num_epochs: int | None = None,
    **options,
  ) -> tf.data.Dataset:
    """See the base class; its options for caching do nothing here."""
    names = [task.name for task in self.tasks if split in task.splits]
    unknown = sorted(set(names) - set(table.BENCHMARKS))
    if unknown or not names:
      raise ValueError(
        f'The mixture {self.name!r} has {unknown or "no task"} for the split '
        f'{split!r}; expected tasks of {", ".join(table.BENCHMARKS)}.'
      )
    joined = seqio.Task(
      self.name,
      source=benchmark.source(names),
      preprocessors=list(benchmark.PREPROCESSORS),
      output_features=benchmark.OUTPUT_FEATURES,
      shuffle_buffer_size=None,
    )
    return joined.get_dataset(
      sequence_length,
      split=split,
      use_cached=use_cached,
      shuffle=shuffle,
      seed=seed,
      shard_info=shard_info,
      num_epochs=num_epochs,
      trim_output_features=options.get('trim_output_features', True),
    )


def _examples(task: seqio.Task) -> float:
  return float(task.num_input_examples('train'))


def register(name: str, tasks: tuple[str, ...]) -> seqio.Mixture:
  """Adds a mixture of benchmarks to SeqIO's registry."""
  return seqio.MixtureRegistry.add(
    name, list(tasks), default_rate=_examples, mixture_cls=ExactMixture
  )


MIXTURE = register('open_qa', OPEN_QA)
PAPER = register('btr_paper', (*OPEN_QA, 'fever', 'mmlu'))
