"""Merging of similar tokens, as pure functions of static shapes.

ToMe's bipartite soft matching (Bolya et al. 2023, section 3): tokens alternate
between a set A and a set B, each token of A finds the most similar one of B,
and those of the `count` best pairs merge into their partner, weighted by how
many tokens either already stands for. Ours adds kinds: tokens of different
kinds (passage text, question, padding) never merge, and padding goes first,
so that a passage that fills its length badly loses less of its text.

Tokens of one kind must stand together, so that each kind alternates between
A and B; what comes out again stands in its old order.
"""

from __future__ import annotations

from flax import struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# Kinds of tokens, in the order in which `by_kind` puts them.
TEXT = 0
QUESTION = 1
PADDING = 2
_NUM_KINDS = 3

# Cosines lie between -1 and 1.
_FORBIDDEN = -4.0
_FIRST = 4.0


@struct.dataclass
class Tokens:
  """What travels with the states of tokens.

  Attributes:
    kinds: TEXT, QUESTION or PADDING.
    positions: where each stands in its sequence; a merged token stands where
      the one stood that it merged into.
    sizes: how many tokens each stands for.
  """

  kinds: Int[Array, 'batch length']
  positions: Int[Array, 'batch length']
  sizes: Float[Array, 'batch length']

  @classmethod
  def unmerged(
    cls, mask: Bool[Array, 'batch length'], question_length: int
  ) -> Tokens:
    """Tokens of [question ; passage] before any has been merged."""
    columns = jnp.arange(mask.shape[1], dtype=jnp.int32)
    kinds = jnp.where(columns < question_length, QUESTION, TEXT)
    return cls(
      kinds=jnp.where(mask, kinds[None], PADDING),
      positions=jnp.broadcast_to(columns, mask.shape),
      sizes=jnp.ones(mask.shape, jnp.float32),
    )

  def part(self, start: int, stop: int | None) -> Tokens:
    """The tokens of some columns."""
    return jax.tree.map(lambda leaf: leaf[:, start:stop], self)

  def after(self, first: Tokens) -> Tokens:
    """`first` and then these."""
    return jax.tree.map(
      lambda a, b: jnp.concatenate([a, b], axis=1), first, self
    )

  def take(self, columns: Int[Array, 'batch _']) -> Tokens:
    """The tokens of other columns in each row."""
    return jax.tree.map(
      lambda leaf: jnp.take_along_axis(leaf, columns, axis=1), self
    )


@struct.dataclass
class Matching:
  """Who merges into whom, by columns.

  Attributes:
    source: tokens that disappear, the most similar pair first.
    destination: the tokens that they merge into.
    kept: all columns but `source`, in their order.
  """

  source: Int[Array, 'batch count']
  destination: Int[Array, 'batch count']
  kept: Int[Array, 'batch left']


def merge_count(length: int, ratio: float) -> int:
  """How many of `length` tokens are merged away at this ratio.

  One token of each kind may find no partner of its kind, so that many are
  always left in A.
  """
  return max(0, min(int(length * ratio), (length + 1) // 2 - _NUM_KINDS))


def match(
  features: Float[Array, 'batch length embed'],
  kinds: Int[Array, 'batch length'],
  count: int,
) -> Matching:
  """Finds the `count` most similar pairs by the cosine of their features.

  Args:
    features: what similarity is judged by (ToMe: keys, averaged over heads).
    kinds: of each token; tokens of a kind stand together.
    count: from `merge_count`.

  Returns:
    The Matching.
  """
  length = features.shape[1]
  features = features.astype(jnp.float32)
  squares = jnp.sum(jnp.square(features), axis=-1, keepdims=True)
  features = features * jax.lax.rsqrt(squares + 1e-12)
  scores = jnp.einsum('bad,bcd->bac', features[:, ::2], features[:, 1::2])
  kinds_a, kinds_b = kinds[:, ::2, None], kinds[:, None, 1::2]
  scores = jnp.where(kinds_a == PADDING, _FIRST, scores)
  scores = jnp.where(kinds_a == kinds_b, scores, _FORBIDDEN)
  partner = jnp.argmax(scores, axis=-1).astype(jnp.int32)
  order = jnp.argsort(-jnp.max(scores, axis=-1), axis=-1).astype(jnp.int32)
  chosen, left = order[:, :count], order[:, count:]
  odd = jnp.arange(1, length, 2, dtype=jnp.int32)
  odd = jnp.broadcast_to(odd, (kinds.shape[0], odd.shape[0]))
  return Matching(
    source=2 * chosen,
    destination=2 * jnp.take_along_axis(partner, chosen, axis=1) + 1,
    kept=jnp.sort(jnp.concatenate([2 * left, odd], axis=1), axis=1),
  )


def merge(
  matching: Matching,
  states: Float[Array, 'batch length embed'],
  tokens: Tokens,
) -> tuple[Float[Array, 'batch left embed'], Tokens]:
  """Merges states: means weighted by size; tokens alone stay bit for bit."""
  rows = jnp.arange(states.shape[0], dtype=jnp.int32)[:, None]
  source, destination = matching.source, matching.destination
  merging_sizes = jnp.take_along_axis(tokens.sizes, source, axis=1)
  sizes = tokens.sizes.at[rows, destination].add(merging_sizes)
  share = merging_sizes / jnp.take_along_axis(sizes, destination, axis=1)
  # In float32: several may merge into one, and bfloat16 would lose them.
  merged = states.astype(jnp.float32) * (tokens.sizes / sizes)[..., None]
  moved = jnp.take_along_axis(states, source[..., None], axis=1)
  merged = merged.at[rows, destination].add(moved * share[..., None])
  kept = jnp.take_along_axis(merged, matching.kept[..., None], axis=1)
  tokens = tokens.replace(sizes=sizes).take(matching.kept)
  return kept.astype(states.dtype), tokens


def by_kind(
  states: Float[Array, 'batch length embed'], tokens: Tokens
) -> tuple[Float[Array, 'batch length embed'], Tokens]:
  """Puts text first, then the question, then padding, each in its order.

  For the decoder's memory, which has no positions.
  """
  order = jnp.argsort(tokens.kinds, axis=1).astype(jnp.int32)
  states = jnp.take_along_axis(states, order[..., None], axis=1)
  return states, tokens.take(order)


def size_bias(
  tokens: Tokens, proportional: bool
) -> Float[Array, 'batch 1 1 length'] | float:
  """What proportional attention adds to the scores of these keys."""
  if not proportional:
    return 0.0
  return jnp.log(tokens.sizes)[:, None, None, :]
