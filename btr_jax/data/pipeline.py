"""SeqIO tasks as iterators of numpy batches, reproducible and resumable."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from btr_jax import config as config_lib
from btr_jax.data import feature_converters

Batch = dict[str, np.ndarray]


def feature_lengths(limits: config_lib.InputLimits) -> dict[str, Any]:
  """`limits` as SeqIO's `task_feature_lengths`."""
  return {
    'inputs': limits.question_length,
    'passages': (limits.num_passages, limits.passage_length),
    'targets': limits.answer_length,
  }


def batches(
  task_name: str,
  split: str,
  limits: config_lib.InputLimits,
  batch_size: int,
  *,
  seed: int,
  num_epochs: int | None = 1,
  shuffle: bool = False,
  shard_index: int = 0,
  num_shards: int = 1,
  start_step: int = 0,
  drop_remainder: bool | None = None,
) -> Iterator[Batch]:
  """Batches of a registered task or mixture, the same ones for the same seed.

  Each epoch has its own order and its own random choices, derived from the
  seed and the number of the epoch. Resuming at `start_step` skips whole
  epochs for free and reads through the current one, so that the batches are
  those of an uninterrupted run.

  Args:
    task_name: in SeqIO's registry; import its module first.
    split: 'train', 'validation' or 'test'.
    limits: the lengths.
    batch_size: rows per step over all shards together.
    seed: of order and random choices.
    num_epochs: how often to go through the split; None for ever.
    shuffle: whether to permute the split in each epoch.
    shard_index: which share of every step this process gets.
    num_shards: number of such shares.
    start_step: steps to skip.
    drop_remainder: whether the last, partial batch of an epoch is dropped;
      None drops it if `shuffle` is set. It is padded otherwise with rows of
      zeros, whose loss weights are zero.

  Yields:
    Dictionaries of int32 and float32 arrays with `batch_size // num_shards`
    rows; see `BtrFeatureConverter` for the names.

  Raises:
    ValueError: the sizes do not fit one another, or the split has fewer
      examples than one batch needs.
  """
  if batch_size < 1 or batch_size % num_shards:
    raise ValueError(
      f'batch_size is {batch_size}; expected a positive multiple of '
      f'num_shards, which is {num_shards}.'
    )
  if not 0 <= shard_index < num_shards:
    raise ValueError(
      f'shard_index is {shard_index}; expected 0 to {num_shards - 1}.'
    )
  if start_step < 0:
    raise ValueError(f'start_step is {start_step}; expected 0 or more.')
  if drop_remainder is None:
    drop_remainder = shuffle
  # TensorFlow only feeds the data; the accelerator's memory is JAX's.
  tf.config.set_visible_devices([], 'GPU')
  return _batches(
    seqio.get_mixture_or_task(task_name),
    split,
    feature_lengths(limits),
    batch_size,
    seed=seed,
    num_epochs=num_epochs,
    shuffle=shuffle,
    shard_info=seqio.ShardInfo(shard_index, num_shards),
    start_step=start_step,
    drop_remainder=drop_remainder,
  )


def _batches(
  task,
  split,
  lengths,
  batch_size,
  *,
  seed,
  num_epochs,
  shuffle,
  shard_info,
  start_step,
  drop_remainder,
) -> Iterator[Batch]:
  steps = _steps_per_epoch(task, split, lengths, batch_size, drop_remainder)
  rows = batch_size // shard_info.num_shards
  epoch, skipped = divmod(start_step, steps)
  while num_epochs is None or epoch < num_epochs:
    dataset = seqio.get_dataset(
      task,
      lengths,
      feature_converters.BtrFeatureConverter(),
      dataset_split=split,
      shuffle=shuffle,
      num_epochs=1,
      shard_info=shard_info if shard_info.num_shards > 1 else None,
      seed=epoch_seed(seed, epoch),
      verbose=False,
    )
    dataset = dataset.skip(skipped * rows).batch(rows).prefetch(2)
    done = skipped
    for batch in dataset.as_numpy_iterator():
      if done == steps:
        break
      yield _pad_rows(batch, rows)
      done += 1
    # A shard may hold one example less than another; all must step alike.
    for _ in range(done, steps):
      yield _empty_batch(dataset.element_spec, rows)
    epoch += 1
    skipped = 0


def epoch_seed(seed: int, epoch: int) -> int:
  """A seed for one epoch; other seeds and epochs give unrelated ones."""
  state = np.random.SeedSequence([seed, epoch]).generate_state(1)
  return int(state[0] & 0x7FFFFFFF)


def _steps_per_epoch(task, split, lengths, batch_size, drop_remainder) -> int:
  examples = task.num_input_examples(split)
  if examples is None:
    examples = sum(
      1 for _ in task.get_dataset(lengths, split=split, shuffle=False, seed=0)
    )
  steps = (
    examples // batch_size if drop_remainder else -(-examples // batch_size)
  )
  if steps < 1:
    raise ValueError(
      f'The split {split!r} has {examples} examples, fewer than one batch of '
      f'{batch_size}. Use a smaller batch size, or drop_remainder=False.'
    )
  return steps


def _pad_rows(batch: Batch, rows: int) -> Batch:
  return {
    name: np.pad(value, [(0, rows - len(value))] + [(0, 0)] * (value.ndim - 1))
    for name, value in batch.items()
  }


def _empty_batch(spec, rows: int) -> Batch:
  return {
    name: np.zeros((rows, *item.shape[1:]), item.dtype.as_numpy_dtype)
    for name, item in spec.items()
  }
