"""Builds a cache: passages -> lower layers -> bits -> shards.

The model comes in as a plain function, so that nothing here knows JAX. Within
a shard the passages are encoded in order of length, in batches of one size
that are cut to a few lengths: few shapes to compile, little padding. Batches
never cross a shard, so that a shard's bytes depend on its passages alone, and
a build that is resumed gives what an uninterrupted one gives.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
import concurrent.futures
import dataclasses
import hashlib
import pathlib
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Integer
import numpy as np

from btr_jax.cache.manifest import Manifest
from btr_jax.cache.plan import CachePlan, plan
from btr_jax.cache.writer import CacheWriter

# int32 tokens [stop - start, passage_length] of passages [start, stop).
PassageTokens = Callable[[int, int], np.ndarray]
# int32 tokens [batch, length] -> bits and scale, uint8 [batch, length, ...].
EncodeFunction = Callable[[np.ndarray], Mapping[str, Any]]
Progress = Callable[[int, int], None]

BUCKET_MULTIPLE = 32
_SCAN_PASSAGES = 4096
# Batches whose results have not been fetched: with two, the device computes
# one while the host unpacks the other.
_BATCHES_IN_FLIGHT = 2


@runtime_checkable
class CodecLayout(Protocol):
  """What the builder must know of a codec (`BtrModel.codec_layout`)."""

  kind: str
  bits_bytes: int
  scale_bytes: int


@dataclasses.dataclass(frozen=True)
class _Scan:
  lengths: np.ndarray
  passage_length: int
  sha256: str


def length_buckets(passage_length: int) -> tuple[int, ...]:
  """Multiples of 32 below passage_length, and passage_length itself."""
  return (*range(BUCKET_MULTIPLE, passage_length, BUCKET_MULTIPLE),) + (
    passage_length,
  )


def make_plan(
  passage_tokens_of: PassageTokens,
  num_passages: int,
  codec_layout: CodecLayout,
  *,
  vocab_size: int,
  passages_per_shard: int | None = None,
) -> CachePlan:
  """Plans a cache by a pass over the tokens, without the model.

  Args:
    passage_tokens_of: (start, stop) -> int32 [stop - start, passage_length],
      padded on the right with 0.
    num_passages: passages in the corpus.
    codec_layout: kind, bits_bytes and scale_bytes.
    vocab_size: of the tokenizer.
    passages_per_shard: None chooses by the size of the corpus.

  Raises:
    ValueError: tokens of the wrong shape, or padding inside a passage.
  """
  scan = _scan(passage_tokens_of, num_passages)
  return _plan_of(scan, codec_layout, vocab_size, passages_per_shard)


def build(
  path: str | pathlib.Path,
  passage_tokens_of: PassageTokens,
  num_passages: int,
  encode_fn: EncodeFunction,
  codec_layout: CodecLayout,
  fingerprints: Mapping[str, str],
  *,
  vocab_size: int,
  batch_size: int = 32,
  passages_per_shard: int | None = None,
  progress: Progress | None = None,
) -> Manifest:
  """Builds a cache, or finishes (or mends) one of the same plan.

  Memory: the rows of a few shards, and six bytes per passage of the corpus.

  Args:
    path: folder of the cache.
    passage_tokens_of: (start, stop) -> int32 [stop - start, passage_length],
      padded on the right with 0. Called twice for every passage: once for the
      plan, once to encode.
    num_passages: passages in the corpus.
    encode_fn: int32 [batch_size, length] -> {'bits', 'scale'} uint8
      [batch_size, length, bits_bytes | scale_bytes], numpy or JAX; length is
      one of `length_buckets(passage_length)`. 'scale' may be absent when
      scale_bytes is 0. Jit it: it sees no more shapes than there are buckets.
    codec_layout: kind, bits_bytes and scale_bytes.
    fingerprints: model, codec and tokenizer; corpus too, unless the SHA-256 of
      all tokens is to stand for it.
    vocab_size: of the tokenizer; decides how wide a stored token id is.
    batch_size: passages per call of encode_fn.
    passages_per_shard: None chooses by the size of the corpus.
    progress: called with (passages done, num_passages) after each batch.

  Returns:
    The manifest of the complete cache.

  Raises:
    ValueError: tokens or encode_fn's results have the wrong shape; the corpus
      changed between the two passes.
    CacheMismatchError, CacheLockedError, CacheWriteError: as CacheWriter.
  """
  if batch_size < 1:
    raise ValueError(f'batch_size is {batch_size}; expected at least 1.')
  scan = _scan(passage_tokens_of, num_passages)
  cache_plan = _plan_of(scan, codec_layout, vocab_size, passages_per_shard)
  fingerprints = {'corpus': scan.sha256} | dict(fingerprints)
  buckets = length_buckets(scan.passage_length)
  with (
    CacheWriter(path, cache_plan, fingerprints) as writer,
    # One shard is written while the next is encoded. Leaving the block waits
    # for the write in flight, so the lock outlives it.
    concurrent.futures.ThreadPoolExecutor(1, 'cache-writer') as executor,
  ):
    missing = writer.missing_shards()
    done = num_passages - sum(
      len(cache_plan.shard_lengths(shard)) for shard in missing
    )
    if progress:
      progress(done, num_passages)
    writing: concurrent.futures.Future[None] | None = None
    for shard in missing:
      start, stop = cache_plan.layout.passage_range(shard)
      tokens = _checked(passage_tokens_of, start, stop, scan.passage_length)
      lengths = cache_plan.shard_lengths(shard)
      if not np.array_equal(_lengths_of(tokens, start), lengths):
        raise ValueError(
          f'Passages {start} to {stop - 1} have other lengths than in the '
          'first pass: the corpus changed while it was read. Build again from '
          'one that stays as it is.'
        )
      encoder = _ShardEncoder(tokens, lengths, codec_layout, encode_fn)
      for encoded in encoder.run(batch_size, buckets):
        done += encoded
        if progress:
          progress(done, num_passages)
      if writing is not None:
        writing.result()
      writing = executor.submit(writer.write_shard, shard, *encoder.rows())
    if writing is not None:
      writing.result()
    return writer.finish()


class _ShardEncoder:
  """Encodes the passages of one shard and keeps their rows, not padding."""

  def __init__(
    self,
    tokens: np.ndarray,
    lengths: np.ndarray,
    codec_layout: CodecLayout,
    encode_fn: EncodeFunction,
  ):
    self._tokens = tokens
    self._lengths = lengths.astype(np.int64)
    self._starts = np.cumsum(self._lengths) - self._lengths
    self._encode_fn = encode_fn
    rows = int(self._lengths.sum())
    self._content = {
      'bits': np.zeros((rows, codec_layout.bits_bytes), np.uint8),
      'scale': np.zeros((rows, codec_layout.scale_bytes), np.uint8),
    }

  def run(self, batch_size: int, buckets: Sequence[int]) -> Iterator[int]:
    """Encodes all passages; yields the number of passages of each batch."""
    # Stable, so that the batches are the same in every run.
    order = np.argsort(self._lengths, kind='stable')
    in_flight: collections.deque = collections.deque()
    for first in range(0, len(order), batch_size):
      passages = order[first : first + batch_size]
      longest = int(self._lengths[passages].max())
      if longest:
        bucket = next(size for size in buckets if size >= longest)
        batch = np.zeros((batch_size, bucket), np.int32)
        batch[: len(passages)] = self._tokens[passages, :bucket]
        in_flight.append((passages, bucket, self._encode_fn(batch)))
      else:
        yield len(passages)
      if len(in_flight) >= _BATCHES_IN_FLIGHT:
        yield self._fetch(*in_flight.popleft(), batch_size)
    while in_flight:
      yield self._fetch(*in_flight.popleft(), batch_size)

  def rows(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """bits, scale and token ids of the shard, passages one after another."""
    real = np.arange(self._tokens.shape[1]) < self._lengths[:, None]
    return self._content['bits'], self._content['scale'], self._tokens[real]

  def _fetch(
    self,
    passages: np.ndarray,
    bucket: int,
    encoded: Mapping[str, Any],
    batch_size: int,
  ) -> int:
    lengths = self._lengths[passages]
    real = np.arange(bucket) < lengths[:, None]  # [passages, bucket]
    rows = (self._starts[passages][:, None] + np.arange(bucket))[real]
    for name, content in self._content.items():
      width = content.shape[1]
      if not width:
        continue
      values = np.asarray(encoded[name])
      shape = (batch_size, bucket, width)
      if values.shape != shape or values.dtype != np.uint8:
        raise ValueError(
          f'encode_fn returned {name} as {values.dtype} {values.shape}; '
          f'expected uint8 {shape}, by the codec layout.'
        )
      content[rows] = values[: len(passages)][real]
    return len(passages)


def _plan_of(
  scan: _Scan,
  codec_layout: CodecLayout,
  vocab_size: int,
  passages_per_shard: int | None,
) -> CachePlan:
  return plan(
    scan.lengths,
    codec_kind=codec_layout.kind,
    bits_bytes=codec_layout.bits_bytes,
    scale_bytes=codec_layout.scale_bytes,
    vocab_size=vocab_size,
    max_length=scan.passage_length,
    passages_per_shard=passages_per_shard,
  )


def _scan(passage_tokens_of: PassageTokens, num_passages: int) -> _Scan:
  """First pass: lengths, and a fingerprint of all tokens."""
  if num_passages < 1:
    raise ValueError(
      f'num_passages is {num_passages}; a cache needs at least 1 passage.'
    )
  passage_length = None
  digest = hashlib.sha256()
  lengths = np.zeros(num_passages, np.int32)
  for start in range(0, num_passages, _SCAN_PASSAGES):
    stop = min(start + _SCAN_PASSAGES, num_passages)
    tokens = _checked(passage_tokens_of, start, stop, passage_length)
    passage_length = tokens.shape[1]
    lengths[start:stop] = _lengths_of(tokens, start)
    digest.update(np.ascontiguousarray(tokens, '<i4').tobytes())
  return _Scan(lengths, passage_length, digest.hexdigest())


def _checked(
  passage_tokens_of: PassageTokens,
  start: int,
  stop: int,
  passage_length: int | None,
) -> np.ndarray:
  tokens = np.asarray(passage_tokens_of(start, stop))
  count = stop - start
  wanted = (count, passage_length or 'passage_length')
  if (
    tokens.ndim != 2
    or tokens.dtype.kind not in 'iu'
    or len(tokens) != count
    or passage_length not in (None, tokens.shape[1])
  ):
    raise ValueError(
      f'passage_tokens_of({start}, {stop}) returned {tokens.dtype} '
      f'{tokens.shape}; expected integers {wanted}.'
    )
  return tokens


def _lengths_of(
  tokens: Integer[np.ndarray, 'passages length'], first_passage: int
) -> np.ndarray:
  """Lengths of right-padded passages; 0 may stand only behind the tokens."""
  real = tokens != 0
  lengths = real.sum(axis=1)
  holes = (real != (np.arange(tokens.shape[1]) < lengths[:, None])).any(axis=1)
  if holes.any():
    raise ValueError(
      f'Passage {first_passage + int(np.argmax(holes))} has padding (0) before '
      'its last token; pad passages on the right only.'
    )
  return lengths
