"""Where batches come from: a SeqIO task, or arrays prepared in .npz files.

A source gives numpy batches (names and shapes: `data/feature_converters.py`)
that depend on the seed and the step alone, so that a resumed run sees what an
uninterrupted one would have seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
import dataclasses
import importlib
import itertools
import json
import os
import pathlib
from typing import Any, Protocol, runtime_checkable

import numpy as np

from btr_jax import config as config_lib
from btr_jax.data import records
from btr_jax.data.benchmarks import table as benchmarks
from btr_jax.data.benchmarks import task_files
from btr_jax.data.records import Record
from btr_jax.evaluation import task_metrics

Batch = dict[str, np.ndarray]

# Arrays of passages as a codec stores them, and the file that tells whose.
CODES = ('passage_bits', 'passage_scale')
CODES_FILE = 'codes.json'


@runtime_checkable
class BatchSource(Protocol):
  """What the trainer asks of its data."""

  def batches(
    self,
    split: str,
    limits: config_lib.InputLimits,
    batch_size: int,
    *,
    seed: int,
    start_step: int = 0,
    shard_index: int = 0,
    num_shards: int = 1,
  ) -> Iterator[Batch]:
    """One share of the batches of `batch_size` examples, from `start_step`
    on; `train` never ends, other splits are read once, in order. The shares
    of a step are those of one batch, however many shares there are.
    """

  def vocabulary_file(self) -> tuple[str, int]:
    """Path of the SentencePiece model, and its extra ids."""

  def describe(self) -> dict[str, Any]:
    """What identifies the data, for the run's settings."""

  def evaluation(
    self, split: str
  ) -> tuple[task_metrics.TaskMetric, Iterable[Record]] | None:
    """The task's metric and the records of a split, with all their answers;
    None for data that knows one answer per question, by exact match."""


@dataclasses.dataclass(frozen=True)
class SeqioSource:
  """Batches of a SeqIO task; imports TensorFlow when first used.

  Attributes:
    task: name of the task or mixture.
    task_module: module that registers it.
    files: which files its benchmarks read, one TaskFiles or several.
  """

  task: str
  task_module: str | None = None
  files: task_files.TaskFiles | tuple[task_files.TaskFiles, ...] = ()

  def _files(self) -> tuple[task_files.TaskFiles, ...]:
    if isinstance(self.files, task_files.TaskFiles):
      return (self.files,)
    return tuple(self.files)

  def pipeline(self) -> Any:
    """The module that reads SeqIO tasks, with this task registered.

    Raises:
      ValueError: SeqIO or the task's module cannot be imported.
    """
    task_files.use(*self._files())
    try:
      from btr_jax.data import pipeline

      if self.task_module:
        importlib.import_module(self.task_module)
    except ModuleNotFoundError as error:
      raise ValueError(
        f'Cannot read task {self.task!r}: {error}. Expected SeqIO with '
        'TensorFlow (pip install btr_jax[train]) and a TASK_MODULE that '
        f'registers the task, found {self.task_module!r}.'
      ) from error
    return pipeline

  def seqio_task(self) -> Any:
    """The task or mixture in SeqIO's registry.

    Raises:
      ValueError: there is none of this name, or see `pipeline`.
    """
    # Through the pipeline: no other module may import SeqIO.
    seqio = self.pipeline().seqio
    try:
      return seqio.get_mixture_or_task(self.task)
    except ValueError as error:
      known = sorted(seqio.TaskRegistry.names())
      raise ValueError(
        f'TASK is {self.task!r}; expected one of {known}, or set TASK_MODULE '
        'to the module that registers it.'
      ) from error

  def batches(
    self,
    split: str,
    limits: config_lib.InputLimits,
    batch_size: int,
    *,
    seed: int,
    start_step: int = 0,
    shard_index: int = 0,
    num_shards: int = 1,
  ) -> Iterator[Batch]:
    """See BatchSource."""
    self.seqio_task()  # Names the task in the error if there is none.
    training = split == 'train'
    return iter(
      self.pipeline().batches(
        self.task,
        split,
        limits,
        batch_size,
        seed=seed,
        num_epochs=None if training else 1,
        shuffle=training,
        shard_index=shard_index,
        num_shards=num_shards,
        start_step=start_step,
      )
    )

  def vocabulary_file(self) -> tuple[str, int]:
    """See BatchSource."""
    vocabulary = self.seqio_task().output_features['targets'].vocabulary
    return vocabulary.sentencepiece_model_file, vocabulary.extra_ids

  def describe(self) -> dict[str, Any]:
    """See BatchSource."""
    files = {one.task: one.describe() for one in self._files()}
    return {'task': self.task, **({'files': files} if files else {})}

  def evaluation(
    self, split: str
  ) -> tuple[task_metrics.TaskMetric, Iterable[Record]] | None:
    """See BatchSource.

    Raises:
      ValueError: a mixture of tasks with different metrics.
    """
    task = self.seqio_task()
    names = [one.name for one in getattr(task, 'tasks', [task])]
    if not set(names) <= set(benchmarks.BENCHMARKS):
      return None  # Not one of the benchmarks.
    metrics = {benchmarks.benchmark(name).metric for name in names}
    if metrics == {'squad', 'triviaqa'}:
      metrics = {'squad'}  # By its rules, as papers score TriviaQA.
    if len(metrics) > 1:
      raise ValueError(
        f'The tasks of {self.task!r} are scored by {", ".join(sorted(metrics))}'
        '; expected one metric. Train with EVAL_BATCHES=0 and evaluate each '
        'task by `btr evaluate --task`.'
      )
    (metric,) = metrics
    return task_metrics.metric(metric), itertools.chain.from_iterable(
      records.iterate_records(task_files.prepared(name, split))
      for name in names
    )


@dataclasses.dataclass(frozen=True)
class NpzSource:
  """Batches of prepared arrays, without TensorFlow.

  Attributes:
    folder: holds <split>.npz, each with the model features of all examples
      along the first axis, and vocabulary.model. With `passage_bits` and
      `passage_scale` the passages are read from their codes, and no lower
      layer runs over them (TRAIN_LOWER=False). `btr prepare-batches` makes
      such folders.
    extra_ids: of the vocabulary.
  """

  folder: str
  extra_ids: int = 100

  def _load(self, split: str) -> Batch:
    path = pathlib.Path(self.folder) / f'{split}.npz'
    try:
      with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError) as error:
      raise ValueError(
        f'Cannot read {path}: {error}. Expected a .npz file with the arrays '
        'question_tokens, passage_tokens, decoder_input_tokens, '
        'decoder_target_tokens and decoder_loss_weights.'
      ) from error

  def batches(
    self,
    split: str,
    limits: config_lib.InputLimits,
    batch_size: int,
    *,
    seed: int,
    start_step: int = 0,
    shard_index: int = 0,
    num_shards: int = 1,
  ) -> Iterator[Batch]:
    """See BatchSource."""
    examples = self._load(split)
    lengths = {name: len(array) for name, array in examples.items()}
    if len(set(lengths.values())) != 1:
      raise ValueError(
        f'The arrays of {split}.npz in {self.folder} hold different numbers of '
        f'examples: {lengths}.'
      )
    expected = {
      'question_tokens': (limits.question_length,),
      'passage_tokens': (limits.num_passages, limits.passage_length),
      'decoder_input_tokens': (limits.answer_length,),
      'decoder_target_tokens': (limits.answer_length,),
      'decoder_loss_weights': (limits.answer_length,),
    }
    # Codes of the passages, as many bytes as the codec has; optional.
    for name in CODES:
      if name in examples:
        expected[name] = expected['passage_tokens'] + examples[name].shape[3:]
    found = {name: array.shape[1:] for name, array in examples.items()}
    if found != expected:
      raise ValueError(
        f'{split}.npz in {self.folder} has shapes {found} per example; '
        f'expected {expected}. Change the lengths, or prepare it anew.'
      )
    training = split == 'train'
    total = next(iter(lengths.values()))
    if training and total < batch_size:
      raise ValueError(
        f'{split}.npz in {self.folder} holds {total} examples; expected at '
        f'least BATCH_SIZE={batch_size}.'
      )
    share = batch_size // num_shards
    return _npz_batches(
      examples,
      total,
      batch_size,
      slice(shard_index * share, (shard_index + 1) * share),
      seed,
      start_step,
      training,
    )

  def vocabulary_file(self) -> tuple[str, int]:
    """See BatchSource."""
    return os.path.join(self.folder, 'vocabulary.model'), self.extra_ids

  def describe(self) -> dict[str, Any]:
    """See BatchSource."""
    described = {'npz': os.path.basename(os.path.normpath(self.folder))}
    codes = pathlib.Path(self.folder) / CODES_FILE
    if codes.exists():
      described['codes'] = json.loads(codes.read_text())['fingerprint']
    return described

  def evaluation(self, split: str) -> None:
    """See BatchSource; arrays hold one answer per question."""
    del split


def _npz_batches(examples, total, batch_size, own, seed, start_step, training):
  """Each process takes its own rows of every batch."""
  share = own.stop - own.start
  per_epoch = total // batch_size if training else -(-total // batch_size)
  order, order_epoch = np.arange(total), None
  step = start_step
  while training or step < per_epoch:
    epoch, index = divmod(step, per_epoch)
    if training and epoch != order_epoch:
      order = np.random.default_rng((seed, epoch)).permutation(total)
      order_epoch = epoch
    start = index * batch_size
    rows = order[start : start + batch_size][own]
    batch = {name: array[rows] for name, array in examples.items()}
    if len(rows) < share:
      # Padding examples have no target tokens, so they weigh nothing.
      missing = share - len(rows)
      batch = {
        name: np.concatenate(
          [array, np.zeros((missing,) + array.shape[1:], array.dtype)]
        )
        for name, array in batch.items()
      }
    yield batch
    step += 1
