"""Reads, encodes and writes shards: the three at the same time.

Memory: the rows of the shard that is encoded and of those that are written,
the tokens of two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
import concurrent.futures

import numpy as np

from btr_jax.cache import scan as scans
from btr_jax.cache.plan import CachePlan
from btr_jax.cache.scan import PassageTokens
from btr_jax.cache.shard_encoder import (
  CodecLayout,
  EncodeFunction,
  ShardEncoder,
  length_buckets,
)
from btr_jax.cache.writer import CacheWriter

MOST_WRITES_IN_FLIGHT = 4
_BYTES_IN_FLIGHT = 2**30


def write_shards(
  writer: CacheWriter,
  missing: list[int],
  *,
  passage_tokens_of: PassageTokens,
  encode_fn: EncodeFunction,
  codec_layout: CodecLayout,
  passage_length: int,
  batch_size: int,
  batches_in_flight: int,
  progress: Callable[[int, int], None] | None,
) -> None:
  """Encodes and writes shards.

  Args:
    writer: of the cache.
    missing: the shards.
    passage_tokens_of: (start, stop) -> their tokens; called in a thread.
    encode_fn: as in `builder.build`, like those that follow.
    codec_layout: bytes per token.
    passage_length: tokens that passages are padded to.
    batch_size: passages per call of encode_fn.
    batches_in_flight: calls whose results are not fetched yet.
    progress: called with (passages done, passages of the writer's share).

  Raises:
    ValueError: tokens or results have the wrong shape; the corpus changed.
    CacheWriteError: a write failed.
  """
  if batch_size < 1:
    raise ValueError(f'batch_size is {batch_size}; expected at least 1.')
  cache_plan = writer.plan
  count = lambda shards: sum(  # noqa: E731
    len(cache_plan.shard_lengths(shard)) for shard in shards
  )
  total = count(writer.share.shards(cache_plan.num_shards))
  done = total - count(missing)
  if progress:
    progress(done, total)
  largest = max(map(cache_plan.shard_bytes, missing), default=1)
  in_flight = max(1, min(MOST_WRITES_IN_FLIGHT, _BYTES_IN_FLIGHT // largest))
  buckets = length_buckets(passage_length)
  # Leaving the block waits for the writes in flight, so the lock outlives
  # them.
  with concurrent.futures.ThreadPoolExecutor(in_flight, 'cache-write') as pool:
    writes: list[concurrent.futures.Future[None]] = []
    for shard, tokens in _read_ahead(
      missing, cache_plan, passage_tokens_of, passage_length
    ):
      encoder = ShardEncoder(
        tokens, cache_plan.shard_lengths(shard), codec_layout, encode_fn
      )
      for encoded in encoder.run(batch_size, buckets, batches_in_flight):
        done += encoded
        if progress:
          progress(done, total)
      while len(writes) >= in_flight:
        writes.pop(0).result()
      writes.append(pool.submit(writer.write_shard, shard, *encoder.rows()))
    for write in writes:
      write.result()


def _read_ahead(
  shards: Iterable[int],
  cache_plan: CachePlan,
  passage_tokens_of: PassageTokens,
  passage_length: int,
) -> Iterator[tuple[int, np.ndarray]]:
  """Shards and their tokens; those of the next are read meanwhile."""

  def read(shard: int) -> np.ndarray:
    start, stop = cache_plan.layout.passage_range(shard)
    tokens = scans.checked_tokens(
      passage_tokens_of, start, stop, passage_length
    )
    lengths = scans.lengths_of(tokens, start)
    if not np.array_equal(lengths, cache_plan.shard_lengths(shard)):
      raise ValueError(
        f'Passages {start} to {stop - 1} have other lengths than in the '
        'first pass: the corpus changed while it was read. Build again from '
        'one that stays as it is.'
      )
    return tokens

  with concurrent.futures.ThreadPoolExecutor(1, 'cache-read') as pool:
    ahead: tuple[int, concurrent.futures.Future[np.ndarray]] | None = None
    for shard in shards:
      current, ahead = ahead, (shard, pool.submit(read, shard))
      if current is not None:
        yield current[0], current[1].result()
    if ahead is not None:
      yield ahead[0], ahead[1].result()
