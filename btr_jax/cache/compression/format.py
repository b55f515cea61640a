"""The files of a compressed cache.

A compressed cache keeps the token ids and offsets of its source, byte for byte,
and one vector (bits, scale, size) per token that still has its own. The vectors
of a passage stand together in the order of its tokens, so that a passage is
mostly read in one go and needs no position per token. A token is one of three:

  shared   its id is in the codebook, which is in memory: nothing is stored;
  merged   its bit in `merged` is set: the next of its passage's `pointers` is
           the number of the vector that it went into, possibly elsewhere;
  own      all others: the next vector of its passage.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import io
import pathlib
from typing import Any

import numpy as np

from btr_jax.cache import files
from btr_jax.cache import manifest as manifests
from btr_jax.cache.errors import CacheCorruptError
from btr_jax.cache.layout import (
  PASSAGES,
  TOKENS,
  ArrayLayout,
  CacheLayout,
  choose_chunk_rows,
)

FORMAT_VERSION = 1
MANIFEST_NAME = 'compressed.json'
CODEBOOK_NAME = 'codebook.npy'
# Copied from the source as they are.
COPIED = ('token_ids', 'passage_starts', 'passage_lengths')


@dataclasses.dataclass(frozen=True)
class Settings:
  """How a cache is compressed.

  Attributes:
    ratio: share of the occurrences of a token id that is merged into others, 0
      to 0.5; one pass of the matching cannot merge more.
    block_size: occurrences of an id that are matched with one another. An id
      with more is cut into blocks of consecutive occurrences, for the time of
      the matching grows with the square.
  """

  ratio: float = 0.2
  block_size: int = 4096

  def __post_init__(self):
    if not 0 <= self.ratio <= 0.5:
      raise ValueError(
        f'The ratio is {self.ratio}; expected 0 to 0.5: matching pairs of '
        'occurrences merges half of them at most.'
      )
    if not 2 <= self.block_size <= 2**16:
      raise ValueError(
        f'block_size is {self.block_size}; expected 2 to {2**16}.'
      )


@dataclasses.dataclass(frozen=True)
class ShardEntry:
  """One shard of a compressed cache.

  Attributes:
    index: number of the shard.
    rows: how many `tokens`, `vectors`, `pointers` and `passages` it has.
    files: array name -> entry; an array without rows has no file.
  """

  index: int
  rows: Mapping[str, int]
  files: Mapping[str, manifests.FileEntry]

  @classmethod
  def from_dict(cls, values: Mapping[str, Any]) -> ShardEntry:
    entries = {
      name: manifests.FileEntry(**entry)
      for name, entry in values['files'].items()
    }
    return cls(values['index'], dict(values['rows']), entries)


@dataclasses.dataclass(frozen=True)
class CompressedManifest:
  """What a compressed cache says about itself.

  Attributes:
    layout: of the source; says how rows of tokens are numbered.
    arrays: of this cache.
    fingerprints: of the source.
    settings: how it was compressed.
    stop_ids: token ids with one vector each.
    counts: tokens that are shared, merged and own.
    other_files: relative path -> entry of codebook and zarr.json files.
    shards: by index.
  """

  layout: CacheLayout
  arrays: tuple[ArrayLayout, ...]
  fingerprints: Mapping[str, str]
  settings: Settings
  stop_ids: tuple[int, ...]
  counts: Mapping[str, int]
  other_files: Mapping[str, manifests.FileEntry]
  shards: tuple[ShardEntry, ...]

  def array(self, name: str) -> ArrayLayout | None:
    """The array of that name, or None (a codec without scale has none)."""
    return next((array for array in self.arrays if array.name == name), None)

  @property
  def vector_starts(self) -> np.ndarray:
    """int64 [shards + 1], number of the first vector of each shard."""
    rows = [shard.rows['vectors'] for shard in self.shards]
    return np.concatenate([[0], np.cumsum(rows, dtype=np.int64)])

  def to_dict(self) -> dict[str, Any]:
    return dataclasses.asdict(self) | {
      'format_version': FORMAT_VERSION,
      'layout': self.layout.to_dict(),
      'arrays': [dataclasses.asdict(array) for array in self.arrays],
      'stop_ids': list(self.stop_ids),
      'shards': [dataclasses.asdict(shard) for shard in self.shards],
    }

  @classmethod
  def from_dict(cls, values: Mapping[str, Any]) -> CompressedManifest:
    return cls(
      layout=CacheLayout.from_dict(values['layout']),
      arrays=tuple(ArrayLayout(**array) for array in values['arrays']),
      fingerprints=dict(values['fingerprints']),
      settings=Settings(**values['settings']),
      stop_ids=tuple(values['stop_ids']),
      counts=dict(values['counts']),
      other_files={
        name: manifests.FileEntry(**entry)
        for name, entry in values['other_files'].items()
      },
      shards=tuple(ShardEntry.from_dict(shard) for shard in values['shards']),
    )


def array_layouts(source: CacheLayout) -> tuple[ArrayLayout, ...]:
  """The arrays of a compressed cache, in the source's numbering of rows."""
  scale = [('scale', 'vectors', 'uint8', source.scale_bytes)]
  pointer = 'uint32' if source.num_tokens < 2**32 else 'uint64'
  found = [source.array(name) for name in COPIED]
  for name, per, dtype, width in (
    ('bits', 'vectors', 'uint8', source.bits_bytes),
    *(scale if source.scale_bytes else []),
    ('sizes', 'vectors', 'uint8', None),
    ('merged', TOKENS, 'uint8', None),
    ('pointers', 'pointers', pointer, None),
    ('vector_starts', PASSAGES, 'uint32', None),
    ('pointer_starts', PASSAGES, 'uint32', None),
    ('passage_checksums', PASSAGES, 'uint64', None),
  ):
    if per == PASSAGES:
      like = source.array('passage_starts')
      rows, chunk = like.rows_per_shard, like.chunk_rows
    else:
      rows = source.rows_per_shard
      chunk = choose_chunk_rows(np.dtype(dtype).itemsize * (width or 1), rows)
      while rows % chunk:
        chunk //= 2
    found.append(ArrayLayout(name, per, dtype, width, rows, chunk))
  return tuple(found)


def rows_of(array: ArrayLayout, shard: ShardEntry) -> int:
  """Rows of an array in a shard."""
  if array.name == 'merged':
    return -(-shard.rows['tokens'] // 8)
  return shard.rows[array.per]


def codebook_type(layout: CacheLayout) -> np.dtype:
  """One entry of the codebook."""
  return np.dtype(
    [
      ('token_id', '<u4'),
      ('size', '<u8'),
      ('bits', 'u1', (layout.bits_bytes,)),
      ('scale', 'u1', (layout.scale_bytes,)),
    ]
  )


def write_codebook(folder: pathlib.Path, codebook: np.ndarray) -> None:
  """Writes the shared vectors as one structured array."""
  content = io.BytesIO()
  np.save(content, codebook, allow_pickle=False)
  files.write_atomic(folder / CODEBOOK_NAME, content.getvalue())


def read_codebook(
  folder: pathlib.Path, manifest: CompressedManifest
) -> np.ndarray:
  """Reads the shared vectors; CacheCorruptError if they have changed."""
  path = folder / CODEBOOK_NAME
  if manifests.FileEntry.of(path) != manifest.other_files[CODEBOOK_NAME]:
    raise CacheCorruptError(
      f'{path} is not what was written. Compress the cache again.'
    )
  return np.load(path, allow_pickle=False)


def write_manifest(folder: pathlib.Path, manifest: CompressedManifest) -> None:
  content = manifests.encode_json(manifest.to_dict())
  files.write_atomic(folder / MANIFEST_NAME, content)


def read_manifest(folder: pathlib.Path) -> CompressedManifest:
  """Reads the manifest of a compressed cache.

  Raises:
    FileNotFoundError: there is none.
    CacheCorruptError: it is damaged, or of another version.
  """
  path = folder / MANIFEST_NAME
  values = manifests.decode_json(path.read_bytes(), path)
  version = values.get('format_version')
  if version != FORMAT_VERSION:
    raise CacheCorruptError(
      f'{path} has format version {version}; this btr_jax reads '
      f'{FORMAT_VERSION}. Compress the cache again.'
    )
  try:
    return CompressedManifest.from_dict(values)
  except (KeyError, TypeError) as error:
    raise CacheCorruptError(
      f'{path} lacks or does not know a field: {error}. Compress the cache '
      'again.'
    ) from error


def is_compressed(path: pathlib.Path | str) -> bool:
  """Whether a compressed cache stands in this (local) folder."""
  return isinstance(path, pathlib.Path) and (path / MANIFEST_NAME).is_file()
