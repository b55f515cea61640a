"""Encodes the passages of one shard, in few shapes and with little padding.

Passages go in order of length, in batches of one size that are cut to a few
lengths. Batches never cross a shard, so that a shard's bytes depend on its
passages alone.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

# int32 tokens [batch, length] -> bits and scale, uint8 [batch, length, ...].
EncodeFunction = Callable[[np.ndarray], Mapping[str, Any]]

BUCKET_MULTIPLE = 32


@runtime_checkable
class CodecLayout(Protocol):
  """What the builder must know of a codec (`BtrModel.codec_layout`)."""

  kind: str
  bits_bytes: int
  scale_bytes: int


def length_buckets(passage_length: int) -> tuple[int, ...]:
  """Multiples of 32 below passage_length, and passage_length itself."""
  return (*range(BUCKET_MULTIPLE, passage_length, BUCKET_MULTIPLE),) + (
    passage_length,
  )


class ShardEncoder:
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

  def run(
    self, batch_size: int, buckets: Sequence[int], batches_in_flight: int
  ) -> Iterator[int]:
    """Encodes all passages; yields the number of passages of each batch.

    Args:
      batch_size: passages per call of encode_fn.
      buckets: lengths that a batch may have, in ascending order.
      batches_in_flight: batches whose results have not been fetched: with two
        per device, it computes one while the host unpacks the other.
    """
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
      if len(in_flight) >= batches_in_flight:
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
