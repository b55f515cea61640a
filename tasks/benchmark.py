"""What the tasks of the public benchmarks share.

Their files are named in gin (gin_configs/data/nq.gin and so on) or by
`btr_jax.data.benchmarks.task_files.use`. A split is prepared when it is first
read: one file with a question and its passages per line.
"""

from collections.abc import Mapping, Sequence
import functools
from typing import Any

import seqio
import tensorflow as tf

from btr_jax.data import prompts, records
from btr_jax.data.benchmarks import table, task_files
from btr_jax.evaluation import task_metrics
from btr_jax.tasks import preprocessors, sources, vocabularies

VOCABULARY = vocabularies.LazyVocabulary(
  lambda: task_files.vocabulary(table.BENCHMARKS),
  lambda: task_files.extra_ids(table.BENCHMARKS),
)
OUTPUT_FEATURES = {
  'inputs': seqio.Feature(VOCABULARY, add_eos=False),
  'passages': seqio.Feature(VOCABULARY, add_eos=False, rank=2),
  'targets': seqio.Feature(VOCABULARY, add_eos=True),
}
# Kept beside the text, for scores by subject.
EXTRA_FEATURES = ('subject',)
# The same for all, so that a mixture can run them over all of its records.
# Nothing looks for a passage with the answer, and the order stays: training
# sees what evaluation sees. (The decoder has no position over passages.)
PREPROCESSORS = (
  functools.partial(
    preprocessors.choose_passages, ensure_gold=False, shuffle_passages=False
  ),
  functools.partial(preprocessors.choose_answer, sample=True),
  preprocessors.tokenize,
)


def source(names: Sequence[str]) -> sources.RecordSource:
  """The records of one benchmark or of several, one after the other."""

  def paths(split: str) -> list[str]:
    return [
      task_files.prepared(name, split)
      for name in names
      if split in table.benchmark(name).splits
    ]

  splits = dict.fromkeys(
    split for name in names for split in table.benchmark(name).splits
  )
  return sources.RecordSource(
    {split: functools.partial(paths, split) for split in splits},
    extra=EXTRA_FEATURES,
  )


def postprocess(decoded: str, example=None, is_target: bool = False) -> Any:
  """Decoded text to an answer; for targets, to the record it belongs to."""
  if not is_target:
    return prompts.parse_answer(decoded)
  text = tf.compat.as_text
  return records.Record(
    text(example['id']),
    text(example['question']),
    tuple(text(answer) for answer in example['answers']),
    extra={name: text(example[name]) for name in EXTRA_FEATURES},
  )


def _metric(name: str):
  metric = task_metrics.metric(name)

  def scores(
    targets: list[records.Record], predictions: list[str]
  ) -> Mapping[str, float]:
    return metric.score(predictions, targets)

  scores.__name__ = f'{name}_scores'
  return scores


def register(name: str) -> seqio.Task:
  """Adds the task of a benchmark to SeqIO's registry."""
  known = table.benchmark(name)
  return seqio.TaskRegistry.add(
    name,
    source=source([name]),
    preprocessors=list(PREPROCESSORS),
    output_features=OUTPUT_FEATURES,
    postprocess_fn=postprocess,
    metric_fns=[_metric(known.metric)],
    # The source permutes the whole file; a buffer would only add memory.
    shuffle_buffer_size=None,
  )
