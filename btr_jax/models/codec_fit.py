"""The residual codec's start: statistics of the corpus's own states.

Everything is accumulated in float64 on the host, batch by batch, in memory
that depends on the vocabulary and the width alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import jax
from jaxtyping import Float, Int
import numpy as np

PAD_ID = 0

# A token id seen n times is predicted by the mean of its n states and this
# many copies of the mean of all states: rare ids have no mean of their own.
_SHRINKAGE = 4.0


def _normalised(states, tokens):
  """x / rms(x) of the real tokens, float64, and their ids."""
  real = tokens != PAD_ID
  states = np.asarray(states, np.float64)[real]
  rms = np.sqrt(np.mean(np.square(states), axis=-1, keepdims=True) + 1e-6)
  return states / rms, tokens[real]


def fit_residual_codec(
  states_of: Callable[
    [Int[np.ndarray, 'sequences length']],
    Float[np.ndarray | jax.Array, 'sequences length embed'],
  ],
  passage_batches: Iterable[Int[np.ndarray, 'sequences length']],
  vocab_size: int,
  num_bits: int,
) -> dict[str, np.ndarray]:
  """Table, deviation, rotation and levels of `ResidualCodec`.

  The rotation holds the principal directions of the residual to the table, so
  that keeping the first `num_bits` of them loses the least.

  Args:
    states_of: runs the lower layers over passages.
    passage_batches: tokens, padded with 0; gone over three times.
    vocab_size: rows of the table.
    num_bits: directions kept.

  Returns:
    float32 arrays: table [vocab, embed], deviation [embed],
    rotation [embed, bits], level [bits].

  Raises:
    ValueError: no passage tokens at all.
  """
  passage_batches = [np.asarray(batch) for batch in passage_batches]
  total, count, squares = None, np.zeros((vocab_size, 1)), 0.0
  for tokens in passage_batches:
    states, ids = _normalised(states_of(tokens), tokens)
    if total is None:
      total = np.zeros((vocab_size, states.shape[-1]))
    np.add.at(total, ids, states)
    np.add.at(count, ids, 1.0)
    squares += np.sum(np.square(states), axis=0)
  if total is None or not count.sum():
    raise ValueError(
      'No passage tokens to fit the residual codec on; give at least one '
      'batch of passages that are not all padding.'
    )
  mean = total.sum(0) / count.sum()
  variance = squares / count.sum() - np.square(mean)
  deviation = np.sqrt(np.maximum(variance, 1e-8))
  table = (total + _SHRINKAGE * mean) / (count + _SHRINKAGE) / deviation

  covariance = 0.0
  for tokens in passage_batches:
    states, ids = _normalised(states_of(tokens), tokens)
    residual = states / deviation - table[ids]
    covariance = covariance + residual.T @ residual
  _, directions = np.linalg.eigh(covariance)
  rotation = directions[:, ::-1][:, :num_bits]

  level = np.zeros(num_bits)
  for tokens in passage_batches:
    states, ids = _normalised(states_of(tokens), tokens)
    rotated = (states / deviation - table[ids]) @ rotation
    level += np.sum(np.abs(rotated), axis=0)
  level = np.maximum(level / count.sum(), 1e-4)
  values = dict(
    table=table, deviation=deviation, rotation=rotation, level=level
  )
  return {name: value.astype(np.float32) for name, value in values.items()}
