"""Questions and passages as the arrays that the programs take.

Batches are padded in three ways, so that few shapes are met: the number of
questions to a power of two, passages to the number that is read, their tokens
to one of a few lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
import functools

import jax
import numpy as np

from btr_jax.cache import shard_encoder
from btr_jax.cache.store import CacheStore
from btr_jax.data import encoding
from btr_jax.data.records import Context, Passage
from btr_jax.models.reader_files import LoadedReader

# Tokenized passages that are kept: at most some 30 MB.
_KEPT_PASSAGES = 1 << 16


def padded_rows(questions: int) -> int:
  """Rows of a batch with this many questions: the next power of two."""
  return 1 << (questions - 1).bit_length()


class Features:
  """Makes batches for one reader, from a cache or by the tokenizer."""

  def __init__(
    self,
    reader: LoadedReader,
    passages: Sequence[Passage],
    cache: CacheStore | None,
    num_passages: int,
    length_buckets: Sequence[int] | None,
  ):
    """See `Engine` for the arguments.

    Raises:
      ValueError: a cache of another number of passages, or a bucket beyond
        the reader's limit.
    """
    if cache is not None and cache.num_passages != len(passages):
      raise ValueError(
        f'The cache holds {cache.num_passages} passages and the corpus '
        f'{len(passages)}; give the corpus that the cache was built from.'
      )
    limit = reader.limits.passage_length
    if length_buckets is None:
      length_buckets = shard_encoder.length_buckets(limit)
    if length_buckets and max(length_buckets) > limit:
      raise ValueError(
        f'length_buckets are {tuple(length_buckets)}; expected at most '
        f"the reader's limit of {limit} tokens per passage."
      )
    self.lengths = tuple(sorted({*length_buckets, limit}))
    self._reader = reader
    self._passages = passages
    self._cache = cache
    self._num_passages = num_passages
    self._tokens = functools.lru_cache(_KEPT_PASSAGES)(self._tokenize)
    self._number_of = (
      {passage.id: number for number, passage in enumerate(passages)}
      if cache is not None
      else {}
    )

  def question_tokens(self, questions: Sequence[str]) -> np.ndarray:
    """int32 [questions, question_length]; ValueError for an empty one."""
    return encoding.encode_questions(
      self._reader.vocabulary, questions, self._reader.limits.question_length
    )

  def context(self, number: int, score: float) -> Context:
    """A passage of the corpus as retrieval found it."""
    passage = self._passages[number]
    return Context(passage.id, passage.title, passage.text, float(score))

  def shapes(self, rows: int, length: int) -> dict[str, jax.ShapeDtypeStruct]:
    """What `batch` gives for so many rows and so long passages."""
    limits = self._reader.limits
    tokens = (rows, self._num_passages, length)
    result = {
      'question_tokens': ((rows, limits.question_length), np.int32),
      'passage_tokens': (tokens, np.int32),
    }
    if self._cache is not None:
      layout = self._cache.layout
      result['passage_bits'] = ((*tokens, layout.bits_bytes), np.uint8)
      result['passage_scale'] = ((*tokens, layout.scale_bytes), np.uint8)
    return {
      name: jax.ShapeDtypeStruct(*value) for name, value in result.items()
    }

  def batch(
    self, question_tokens: np.ndarray, found: Sequence[Sequence[Context]]
  ) -> dict[str, np.ndarray]:
    """Model features of questions with their passages.

    Args:
      question_tokens: from `question_tokens`.
      found: passages of each question, at least one.

    Returns:
      Tokens, and with a cache the bits as it holds them. Rows beyond those of
      the questions repeat the first.

    Raises:
      ValueError: with a cache, a passage that is not in the corpus.
    """
    spare = padded_rows(len(found)) - len(found)
    question_tokens = np.concatenate(
      [question_tokens, np.repeat(question_tokens[:1], spare, axis=0)]
    )
    found = [*found, *[found[0]] * spare]
    features = (
      self._computed(found) if self._cache is None else self._cached(found)
    )
    return {'question_tokens': question_tokens, **features}

  def padded_length(self, longest: int) -> int:
    """The smallest length that is compiled and not below `longest`."""
    return next(length for length in self.lengths if length >= longest)

  def _tokenize(self, title: str, text: str) -> np.ndarray:
    limit = self._reader.limits.passage_length
    row = encoding.encode_passages(
      self._reader.vocabulary, [(title, text)], limit
    )[0]
    return np.asarray(row[row != 0])

  def _computed(
    self, found: Sequence[Sequence[Context]]
  ) -> dict[str, np.ndarray]:
    tokens = [[self._tokens(c.title, c.text) for c in row] for row in found]
    length = self.padded_length(max(len(t) for row in tokens for t in row))
    result = np.zeros((len(found), self._num_passages, length), np.int32)
    for i, row in enumerate(tokens):
      for j, ids in enumerate(row):
        result[i, j, : len(ids)] = ids
    return {'passage_tokens': result}

  def _cached(
    self, found: Sequence[Sequence[Context]]
  ) -> dict[str, np.ndarray]:
    numbers = np.full((len(found), self._num_passages), -1, np.int64)
    for i, row in enumerate(found):
      for j, context in enumerate(row):
        numbers[i, j] = self._number(context)
    longest = int(self._cache.lengths(numbers).max())
    rows = self._cache.lookup(numbers, self.padded_length(longest))
    return {
      'passage_tokens': rows.token_ids,
      'passage_bits': rows.bits,
      'passage_scale': rows.scale,
    }

  def _number(self, context: Context) -> int:
    try:
      return self._number_of[context.id]
    except KeyError:
      raise ValueError(
        f'The passage with id {context.id!r} ({context.title!r}) is not in '
        'the corpus that the cache was built from; give the records that '
        'were retrieved from that corpus, or read without a cache.'
      ) from None
