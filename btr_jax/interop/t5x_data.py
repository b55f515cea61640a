"""What T5X's gin file for training binds for its data; see `t5x`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
import functools
from typing import Any

import jax
import numpy as np

from btr_jax import config as config_lib
from btr_jax.interop import t5x as adapter
from btr_jax.training import checkpoints as checkpoints_lib
from btr_jax.training import recipe as recipe_lib
from btr_jax.training import sources


class BatchIterator:
  """Batches as clu's DatasetIterator, which T5X takes for its data.

  It saves nothing: batches depend on the seed and the step alone, so a run
  that goes on starts it at the step of its checkpoint.

  Attributes:
    element_spec: shape and dtype of each array of a batch.
  """

  def __init__(
    self,
    make: Callable[[], Iterable[Mapping[str, np.ndarray]]],
    element_spec: Mapping[str, jax.ShapeDtypeStruct],
  ):
    """Takes a function that starts the batches from the beginning."""
    self._make = make
    self.element_spec = element_spec
    self.reset()

  def reset(self) -> None:
    """Back to the first batch."""
    self._batches = iter(self._make())

  def __iter__(self) -> Iterator[Mapping[str, np.ndarray]]:
    return self

  def __next__(self) -> Mapping[str, np.ndarray]:
    return next(self._batches)


def get_dataset(
  cfg: Any,
  shard_id: int,
  num_shards: int,
  feature_converter_cls: Any,
  num_epochs: int | None = None,
  continue_from_last_checkpoint: bool = False,
  *,
  limits: config_lib.InputLimits,
  data: sources.SeqioSource,
  recipe: recipe_lib.Recipe,
  stage: int,
  folder: str,
) -> BatchIterator:
  """T5X's training batches, in our trainer's order.

  Args:
    cfg: T5X's DatasetConfig.
    shard_id: which share of each batch.
    num_shards: of so many.
    feature_converter_cls: the model's.
    num_epochs: unused; training data has no end.
    continue_from_last_checkpoint: unused; it always does.
    limits: lengths of the inputs.
    data: the task.
    recipe: seed of the order.
    stage: 1, 2 or 3; each has an order of its own.
    folder: of the stage; batches start at the step of its newest checkpoint.

  Returns:
    An iterator of numpy batches.
  """
  from clu.data import dataset_iterator

  del num_epochs, continue_from_last_checkpoint
  dataset_iterator.DatasetIterator.register(BatchIterator)
  rows = cfg.batch_size // num_shards
  converter = feature_converter_cls(pack=cfg.pack)
  make = functools.partial(
    adapter.check_source(data).batches,
    cfg.split,
    limits,
    cfg.batch_size,
    seed=recipe.data_seed(adapter.check_stage(stage)),
    shard_index=shard_id,
    num_shards=num_shards,
    start_step=max(checkpoints_lib.steps_in(folder), default=0),
  )
  return BatchIterator(
    make,
    {
      name: jax.ShapeDtypeStruct(
        (rows, *np.atleast_1d(length)),
        converter.MODEL_FEATURES[name].dtype.as_numpy_dtype,
      )
      for name, length in converter.get_model_feature_lengths(
        cfg.task_feature_lengths
      ).items()
    },
  )


def eval_dataset(batches: int | None, dataset: Any) -> Any:
  """T5X's DatasetConfig for evaluation, or None if EVAL_BATCHES is 0."""
  return None if batches == 0 else dataset


def eval_steps(
  batches: int | None, batch_size: int, data: sources.SeqioSource
) -> int:
  """Batches per evaluation; those of the whole split for None."""
  if batches is not None:
    return batches
  examples = (
    adapter.check_source(data).seqio_task().num_input_examples('validation')
  )
  return -(-examples // batch_size)


def eval_examples(batches: int | None, batch_size: int) -> int | None:
  """Questions that are answered per evaluation; None for all."""
  return None if batches is None else batches * batch_size
