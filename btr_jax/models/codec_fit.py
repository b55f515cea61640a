"""The residual codec's start: statistics of the corpus's own states.

Everything is accumulated in float64 on the host, batch by batch, in memory
that depends on the vocabulary and the width alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import jax
from jaxtyping import Float, Int
import numpy as np

from btr_jax import config as config_lib
from btr_jax.models import levels, residual_codec, token_codec

PAD_ID = 0
# What a token id is predicted by: the mean of its states; a linear map of its
# embedding, which rare ids have too; or that and the mean of what it misses.
PREDICTIONS = ('both', 'embedding', 'mean')

# A token id seen n times gets the mean of its n states and this many copies
# of what is known without it: rare ids have no mean of their own.
_SHRINKAGE = 4.0
_RIDGE = 1e-4  # Of the mean of the squared features.

States = Float[np.ndarray | jax.Array, 'sequences length embed']
Tokens = Int[np.ndarray, 'sequences length']


class _Prediction:
  """x / rms(x) from token ids, in float64."""

  def __init__(self, embedding, offsets):
    self._embedding = np.asarray(embedding, np.float64)
    self._offsets = (0, *offsets)
    width = len(self._offsets) * self._embedding.shape[1]
    self._maps = None
    self._gram = np.zeros((width + 1, width + 1))
    self._cross = 0.0
    self.bias = 0.0

  def _features(self, ids, neighbours):
    columns = [self._embedding[ids]]
    columns += [self._embedding[neighbours[o]] for o in self._offsets[1:]]
    return np.concatenate([*columns, np.ones((len(ids), 1))], axis=1)

  def add(self, states, ids, neighbours):
    features = self._features(ids, neighbours)
    self._gram += features.T @ features
    self._cross = self._cross + features.T @ states

  def solve(self):
    """Ridge regression of the states on the embeddings."""
    squares = np.diag(self._gram)[:-1]
    ridge = np.append(np.full(len(squares), _RIDGE * squares.mean()), 0.0)
    solved = np.linalg.solve(self._gram + np.diag(ridge), self._cross)
    parts = np.split(solved[:-1], len(self._offsets))
    self._maps = dict(zip(self._offsets, parts, strict=True))
    self.bias = solved[-1]

  def table(self, offset):
    """What each id says at a place, [vocab, embed]."""
    return self._embedding @ self._maps[offset]


def _real_tokens(states, tokens, window):
  """x / rms(x) of the real tokens, float64, their ids and neighbours'."""
  real = tokens != PAD_ID
  states = np.asarray(states, np.float64)[real]
  rms = np.sqrt(np.mean(np.square(states), axis=-1, keepdims=True) + 1e-6)
  neighbours = {
    offset: np.asarray(residual_codec.neighbour_ids(tokens, offset))[real]
    for offset in residual_codec.neighbour_offsets(window)
  }
  return states / rms, tokens[real], neighbours


def fit_residual_codec(
  states_of: Callable[[Tokens], States],
  passage_batches: Iterable[Tokens],
  config: config_lib.ReaderConfig,
  embedding: Float[np.ndarray | jax.Array, 'vocab embed'] | None = None,
  prediction: str = 'both',
) -> dict[str, np.ndarray]:
  """The parameters of `ResidualCodec`.

  The rotation holds the principal directions of the residual to the
  prediction, so that keeping the first of them loses the least.

  Args:
    states_of: runs the lower layers over passages.
    passage_batches: tokens, padded with 0; gone over four times.
    config: whose codec it is.
    embedding: of the tokens; needed but for the prediction `mean`.
    prediction: one of `PREDICTIONS`.

  Returns:
    float32 arrays: table [vocab, embed] and one more per neighbour,
    deviation [embed], rotation [embed, directions], level [directions].

  Raises:
    ValueError: no passage tokens at all, an unknown prediction, or one that
      has no embedding.
  """
  config_lib.check_choice('prediction', prediction, PREDICTIONS)
  window = config.codec.window
  if prediction == 'mean' and window:
    raise ValueError(
      f"prediction='mean' has no table for neighbours, and codec.window is "
      f'{window}; expected {PREDICTIONS[0]!r} or {PREDICTIONS[1]!r}.'
    )
  if prediction != 'mean' and embedding is None:
    raise ValueError(
      f'prediction={prediction!r} needs the embedding; found None.'
    )
  offsets = residual_codec.neighbour_offsets(window)
  passage_batches = [np.asarray(batch) for batch in passage_batches]

  def tokens_and_states():
    for tokens in passage_batches:
      yield _real_tokens(states_of(tokens), tokens, window)

  linear = None
  if prediction != 'mean':
    linear = _Prediction(embedding, offsets)
  count, total, squares = np.zeros((config.vocab_size, 1)), 0.0, 0.0
  for states, ids, neighbours in tokens_and_states():
    np.add.at(count, ids, 1.0)
    total = total + states.sum(0)
    squares = squares + np.square(states).sum(0)
    if linear is not None:
      linear.add(states, ids, neighbours)
  if not count.sum():
    raise ValueError(
      'No passage tokens to fit the residual codec on; give at least one '
      'batch of passages that are not all padding.'
    )
  mean = total / count.sum()
  variance = squares / count.sum() - np.square(mean)
  deviation = np.sqrt(np.maximum(variance, 1e-8))

  if linear is None:
    tables = {0: np.tile(mean, (config.vocab_size, 1))}
  else:
    linear.solve()
    tables = {offset: linear.table(offset) for offset in (0, *offsets)}
    tables[0] = tables[0] + linear.bias

  def residual(states, ids, neighbours):
    predicted = tables[0][ids]
    for offset in offsets:
      predicted = predicted + tables[offset][neighbours[offset]]
    return states - predicted

  if prediction != 'embedding':
    missed = np.zeros((config.vocab_size, len(mean)))
    for states, ids, neighbours in tokens_and_states():
      np.add.at(missed, ids, residual(states, ids, neighbours))
    tables[0] = tables[0] + missed / (count + _SHRINKAGE)

  covariance = 0.0
  for found in tokens_and_states():
    left = residual(*found) / deviation
    covariance = covariance + left.T @ left
  _, directions = np.linalg.eigh(covariance)
  kept = token_codec.kept_directions(config)
  rotation = directions[:, ::-1][:, :kept]

  magnitude = np.zeros(kept)
  for found in tokens_and_states():
    rotated = (residual(*found) / deviation) @ rotation
    magnitude += np.sum(np.abs(rotated), axis=0)
  magnitude = np.maximum(magnitude / count.sum(), 1e-4)
  values = {
    'table': tables[0] / deviation,
    'deviation': deviation,
    'rotation': rotation,
    'level': magnitude * levels.HALF_STEP[config.codec.bits_per_dim],
  } | {residual_codec.neighbour_name(o): tables[o] / deviation for o in offsets}
  return {name: value.astype(np.float32) for name, value in values.items()}
