"""Vectors of tokens and of questions, and what they are trained for.

A phrase is a start and an end token of a passage; its score for a question is
the inner product of the start token's vector with the question's start query,
plus that of the end token's with the end query (Lee et al. 2021, DensePhrases).
So tokens are indexed, not phrases. docs/phrases.md says what is simplified.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32
import numpy as np

from btr_jax.retrieval import bert

Params = Mapping[str, Any]

_EXCLUDED = -1e9
# Of the scores of unrelated tokens before training, see `_first_scale`.
_FIRST_SPREAD = 2.0


@dataclasses.dataclass(frozen=True)
class PhraseConfig:
  """Sizes of vectors and inputs.

  Attributes:
    dim: of a token's vector.
    passage_length: tokens of title and text; what is longer is cut off.
    question_length: tokens of a question.
    answer_tokens: of the longest phrase.
    bank: batches whose gold tokens are kept as further negatives (the
      paper's pre-batch negatives).
    filter_weight: of the loss of the filter.
  """

  dim: int = 128
  passage_length: int = 128
  question_length: int = 32
  answer_tokens: int = 20
  bank: int = 2
  filter_weight: float = 0.1

  def __post_init__(self):
    for name in ('dim', 'passage_length', 'question_length', 'answer_tokens'):
      value = getattr(self, name)
      if value < 1:
        raise ValueError(f'{name} is {value}; expected at least 1.')
    if self.bank < 0:
      raise ValueError(f'bank is {self.bank}; expected at least 0.')

  def to_dict(self) -> dict[str, Any]:
    return dataclasses.asdict(self)


def initial_params(
  encoder: Params, embed_dim: int, config: PhraseConfig, seed: int = 0
) -> dict[str, Any]:
  """Parameters before training, from an encoder of sentences.

  Tokens and queries are projected alike, so that they are near at first where
  the encoder's states are.

  Args:
    encoder: parameters of `bert`; passages and questions start from them.
    embed_dim: width of its states.
    config: sizes.
    seed: of the projection.

  Raises:
    ValueError: vectors wider than the states.
  """
  if config.dim > embed_dim:
    raise ValueError(
      f'dim is {config.dim}; expected at most {embed_dim}, the width of the '
      "encoder's states."
    )
  generator = np.random.default_rng(seed)
  square = np.linalg.qr(generator.normal(size=(embed_dim, embed_dim)))[0]
  project = square[:, : config.dim].astype(np.float32)
  return {
    'passage': jax.tree.map(np.array, encoder),
    'question': jax.tree.map(np.array, encoder),
    'heads': {
      'token': project,
      'start': project.copy(),
      'end': project.copy(),
      'scale': np.float32(_first_scale(encoder, config.dim)),
      'filter': np.zeros((embed_dim, 2), np.float32),
      'filter_bias': np.zeros(2, np.float32),
    },
  }


def _first_scale(encoder: Params, dim: int) -> float:
  """What queries are multiplied by at first.

  The last layer's norm gives states an expected squared length; the products of
  two unrelated ones, projected to `dim` dimensions, then spread by that times
  sqrt(dim) / width. States that have much in common spread less (MiniLM's by
  0.6 in place of 2). Far below that there is hardly any gradient: questions are
  then not told apart for hundreds of steps.
  """
  norm = encoder['layers']['mlp_norm']
  weight, bias = (np.asarray(norm[name][-1]) for name in ('weight', 'bias'))
  squared = float(np.sum(np.square(weight) + np.square(bias)))
  return _FIRST_SPREAD * len(weight) / (squared * dim**0.5)


def token_vectors(
  params: Params,
  token_ids: Int32[Array, 'batch length'],
  mask: Bool[Array, 'batch length'],
  encoder: bert.BertConfig,
) -> tuple[
  Float32[Array, 'batch length dim'], Float32[Array, 'batch length 2']
]:
  """Vectors of passage tokens, and logits of starting and ending an answer."""
  states = bert.token_states(params['passage'], token_ids, mask, encoder)
  heads = params['heads']
  logits = states @ heads['filter'] + heads['filter_bias'][None, None, :]
  return states @ heads['token'], logits


def question_vectors(
  params: Params,
  token_ids: Int32[Array, 'batch length'],
  mask: Bool[Array, 'batch length'],
  encoder: bert.BertConfig,
) -> tuple[Float32[Array, 'batch dim'], Float32[Array, 'batch dim']]:
  """Start and end queries, from the state of [CLS]."""
  states = bert.token_states(params['question'], token_ids, mask, encoder)
  first = states[:, 0] * params['heads']['scale']
  return first @ params['heads']['start'], first @ params['heads']['end']


def empty_bank(
  config: PhraseConfig, batch_size: int
) -> dict[str, Float32[Array, 'entries dim'] | Int32[Array, 'entries']]:
  """Room for the gold tokens of the batches before; nothing is in it.

  Args:
    config: sizes.
    batch_size: questions of a batch.

  Returns:
    `start` and `end`, vectors; `passages`, the number of the passage that each
    is of, negative where there is none yet.
  """
  entries = config.bank * batch_size
  zeros = jnp.zeros((entries, config.dim), jnp.float32)
  return {
    'start': zeros,
    'end': zeros,
    'passages': jnp.full(entries, -1, jnp.int32),
  }


def loss(
  params: Params,
  batch: Mapping[str, Array | np.ndarray],
  bank: Mapping[str, Array],
  encoder: bert.BertConfig,
  config: PhraseConfig,
) -> tuple[Float[Array, ''], dict[str, Any]]:
  """How badly questions find the starts and ends of their answers.

  The right tokens of a question's own passage compete with all other tokens of
  it, with those of the other passages of the batch, and with the right tokens
  of earlier batches. Where its own passage stands again, in the batch or in the
  bank, it is left out: what is right would compete with itself, and a loss of
  nearly log 2 would be the least.

  Args:
    params: from `initial_params`.
    batch: from `spans.make_batch`.
    bank: from `empty_bank` or an earlier call.
    encoder: architecture.
    config: sizes and weights.

  Returns:
    The loss, and a dictionary: `bank` for the next call, `accuracy` of
    starts within the batch, `gold_logits` of the filter [batch, 2] (the
    smallest of each example).
  """
  vectors, logits = token_vectors(
    params, batch['passage_ids'], batch['passage_mask'], encoder
  )
  queries = question_vectors(
    params, batch['question_ids'], batch['question_mask'], encoder
  )
  rows, length, dim = vectors.shape
  keys = vectors.reshape(rows * length, dim)
  own = jnp.eye(rows, dtype=bool)
  numbers = batch['passage_numbers']
  copies = (numbers[:, None] == numbers[None, :]) & ~own
  usable = batch['answerable'][None, :, :] & ~copies[:, :, None]
  others = (bank['passages'] >= 0)[None, :] & (
    bank['passages'][None, :] != numbers[:, None]
  )
  total, hits, new_bank = 0.0, None, {}
  for side, name in enumerate(('start', 'end')):
    gold = batch[f'{name}s']
    right = (own[:, :, None] & gold[None, :, :]).reshape(rows, -1)
    scores = jnp.where(
      usable.reshape(rows, -1), queries[side] @ keys.T, _EXCLUDED
    )
    earlier = queries[side] @ bank[name].T
    earlier = jnp.where(others, earlier, _EXCLUDED)
    every = jnp.concatenate([scores, earlier], axis=1)
    best = jax.nn.logsumexp(jnp.where(right, scores, _EXCLUDED), axis=1)
    total += jnp.mean(jax.nn.logsumexp(every, axis=1) - best) / 2
    if hits is None:
      chosen = jnp.argmax(scores, axis=1)[:, None]
      hits = jnp.mean(jnp.take_along_axis(right, chosen, axis=1))
    first = jnp.argmax(gold, axis=1)
    kept = jnp.take_along_axis(vectors, first[:, None, None], axis=1)[:, 0]
    kept = jax.lax.stop_gradient(kept)
    size = bank[name].shape[0]
    new_bank[name] = jnp.concatenate([kept, bank[name]])[:size]
  new_bank['passages'] = jnp.concatenate([numbers, bank['passages']])[
    : bank['passages'].shape[0]
  ]

  gold = jnp.stack([batch['starts'], batch['ends']], axis=-1)
  each = jnp.logaddexp(0.0, jnp.where(gold, -logits, logits))
  counted = batch['answerable'][:, :, None].astype(jnp.float32)
  total += config.filter_weight * jnp.sum(each * counted) / jnp.sum(counted)
  gold_logits = jnp.min(jnp.where(gold, logits, jnp.inf), axis=1)
  return total, {'bank': new_bank, 'accuracy': hits, 'gold_logits': gold_logits}
