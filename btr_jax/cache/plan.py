"""The plan of a cache: shards, bytes and disk, before anything is written."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import pathlib

from jaxtyping import Integer, UInt16
import numpy as np

from btr_jax.cache import places
from btr_jax.cache.errors import CacheWriteError
from btr_jax.cache.layout import CacheLayout, make_layout

_SMALL_SHARD = 1024
_LARGE_SHARD = 65536
_MANY_SHARDS = 512
# zarr.json files, the ledger and the manifest: a few hundred bytes a file.
_METADATA_BYTES = 16 * 1024
_METADATA_BYTES_PER_SHARD = 2 * 1024


def default_passages_per_shard(num_passages: int) -> int:
  """1,024, doubled up to 65,536 while there would be more than 512 shards."""
  passages = _SMALL_SHARD
  while passages < _LARGE_SHARD and num_passages > passages * _MANY_SHARDS:
    passages *= 2
  return passages


@dataclasses.dataclass(frozen=True)
class Share:
  """The shards that one of several writers writes: every count-th.

  Attributes:
    index: which writer, from 0.
    count: writers in all; 1 for a writer of everything.
  """

  index: int = 0
  count: int = 1

  def __post_init__(self):
    if not 0 <= self.index < self.count:
      raise ValueError(
        f'Share {self.index + 1}/{self.count} does not exist; expected 1/N to '
        'N/N.'
      )

  @classmethod
  def parse(cls, text: str) -> Share:
    """'3/8' -> the third of eight. ValueError where it is no such thing."""
    index, slash, count = text.partition('/')
    if not (slash and index.isdigit() and count.isdigit()):
      raise ValueError(f'{text!r} is not a share; expected, for example, 3/8.')
    return cls(int(index) - 1, int(count))

  @property
  def is_whole(self) -> bool:
    return self.count == 1

  @property
  def tag(self) -> str:
    """For names of files that only this writer touches."""
    return '' if self.is_whole else f'.{self.index + 1}-of-{self.count}'

  def shards(self, num_shards: int) -> range:
    """The shards of this writer out of `num_shards`."""
    return range(self.index, num_shards, self.count)


@dataclasses.dataclass(frozen=True)
class CachePlan:
  """A cache that is to be written.

  Attributes:
    layout: its shape.
    lengths: uint16 [passages], tokens of each passage.
  """

  layout: CacheLayout
  lengths: UInt16[np.ndarray, 'passages']

  @property
  def num_shards(self) -> int:
    return self.layout.num_shards

  def shard_lengths(self, shard: int) -> UInt16[np.ndarray, 'passages']:
    """Lengths of the shard's passages."""
    start, stop = self.layout.passage_range(shard)
    return self.lengths[start:stop]

  def shard_rows(self, shard: int) -> int:
    """Tokens in the shard."""
    return int(self.shard_lengths(shard).sum(dtype=np.int64))

  def shard_bytes(self, shard: int) -> int:
    """Bytes of the shard's files, exactly."""
    rows = self.shard_rows(shard)
    return sum(
      array.file_bytes(self.layout.rows_of(array, shard, rows))
      for array in self.layout.arrays
    )

  @property
  def data_bytes(self) -> int:
    """Bytes of all shards' files, exactly."""
    return sum(self.shard_bytes(shard) for shard in range(self.num_shards))

  def check_free_space(
    self,
    path: str | pathlib.Path | places.Place,
    present_bytes: int = 0,
    share: Share = Share(),  # noqa: B008 (frozen)
  ) -> None:
    """Checks that the disk of `path` has room for what is still to be written.

    Args:
      path: where the cache is to stand; need not exist yet.
      present_bytes: what an interrupted build has written already.
      share: the part of the cache that is written there.

    Raises:
      CacheWriteError: (an OSError, errno ENOSPC) it has not.
    """
    shards = share.shards(self.num_shards)
    data = sum(self.shard_bytes(shard) for shard in shards)
    metadata = _METADATA_BYTES + _METADATA_BYTES_PER_SHARD * len(shards)
    check_room(places.open_place(path), data + metadata - present_bytes)


def check_room(place: places.Place, needed: int) -> None:
  """Checks that so many bytes can still be written.

  Raises:
    CacheWriteError: (an OSError, errno ENOSPC) they cannot.
  """
  free = place.free_bytes()
  if free is not None and free < needed:
    raise CacheWriteError(
      errno.ENOSPC,
      f'The cache needs {needed:,} more bytes, but the disk of {place} has '
      f'{free:,} free. Free {needed - free:,} bytes, choose another disk, '
      'or a codec with fewer bits (codec.num_bits).',
    )


def plan(
  lengths: Integer[np.ndarray, 'passages'],
  *,
  codec_kind: str,
  bits_bytes: int,
  scale_bytes: int,
  vocab_size: int,
  max_length: int,
  passages_per_shard: int | None = None,
) -> CachePlan:
  """Plans a cache from the lengths of its passages.

  Args:
    lengths: integers [passages], tokens of each passage, 0 to max_length.
    codec_kind: name of the token codec.
    bits_bytes: packed bytes per token.
    scale_bytes: scale bytes per token, 0 for none.
    vocab_size: of the tokenizer; decides how wide a token id is.
    max_length: the longest passage admitted. Not taken from `lengths`, so that
      appending a longer passage does not move the shards.
    passages_per_shard: None takes default_passages_per_shard.

  Returns:
    The plan; `check_free_space` holds it against a disk.

  Raises:
    ValueError: a length or size is out of range; names it.
  """
  if len(lengths) == 0:
    raise ValueError('A cache of no passages was asked for; give at least 1.')
  wrong = (lengths < 0) | (lengths > max_length)
  if wrong.any():
    passage = int(np.argmax(wrong))
    raise ValueError(
      f'Passage {passage} has {int(lengths[passage])} tokens; expected 0 to '
      f'{max_length}. Cut it, or raise max_length.'
    )
  # Whatever max_length is, make_layout refuses one that uint16 cannot hold.
  narrow = lengths.astype('<u2', copy=False)
  layout = make_layout(
    codec_kind=codec_kind,
    bits_bytes=bits_bytes,
    scale_bytes=scale_bytes,
    vocab_size=vocab_size,
    max_length=max_length,
    passages_per_shard=(
      passages_per_shard
      if passages_per_shard is not None
      else default_passages_per_shard(len(lengths))
    ),
    num_passages=len(lengths),
    num_tokens=int(lengths.sum(dtype=np.int64)),
    lengths_sha256=hashlib.sha256(narrow.tobytes()).hexdigest(),
  )
  return CachePlan(layout, narrow)
