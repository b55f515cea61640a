"""What is checked when a cache, or a shard of it, is opened."""

from __future__ import annotations

from collections.abc import Mapping
import hashlib
import pathlib

from btr_jax.cache import arrays, files
from btr_jax.cache import manifest as manifests
from btr_jax.cache.errors import (
  CacheCorruptError,
  CacheMismatchError,
  find_differences,
)
from btr_jax.cache.layout import ArrayLayout, CacheLayout


def read_manifest(path: pathlib.Path | str) -> manifests.Manifest:
  """The manifest of a local or remote cache; raises as manifest's does."""
  if not arrays.is_remote(path):
    return manifests.read_manifest(path)
  content = arrays.read_bytes(path, manifests.MANIFEST_NAME)
  return manifests.parse_manifest(content, f'{path}/{manifests.MANIFEST_NAME}')


def check_fingerprints(
  path: pathlib.Path | str,
  found: Mapping[str, str],
  expected: Mapping[str, str] | None,
) -> None:
  """CacheMismatchError, with a diff, unless the fingerprints fit."""
  differences = find_differences(expected or {}, found)
  if differences:
    raise CacheMismatchError(
      path,
      differences,
      'Build a cache with this reader, or open it with the one it is of.',
    )


def check_hashes(
  path: pathlib.Path | str,
  layout: CacheLayout,
  shard: manifests.ShardEntry,
) -> None:
  """Holds a shard's files against the ledger; CacheCorruptError names one."""
  for array in layout.arrays:
    entry = shard.files.get(array.name)
    if entry is None:
      continue
    name = array.file_name(shard.index)
    if arrays.is_remote(path):
      found = hashlib.sha256(arrays.read_bytes(path, name)).hexdigest()
    else:
      found = files.sha256_of(path / name)
    if found != entry.sha256:
      start, stop = layout.passage_range(shard.index)
      raise CacheCorruptError(
        f'{path}/{name} (shard {shard.index}, passages {start} to {stop - 1}) '
        'is not what was written: its SHA-256 differs from the ledger. Start '
        'the same build again: it writes what is damaged.'
      )


def check_sizes(path: pathlib.Path | str, manifest: manifests.Manifest) -> None:
  """Holds the ledger against the layout, and local files against the ledger.

  Raises:
    CacheCorruptError: a shard is not listed, missing, or of another size.
  """
  layout = manifest.layout
  found = [shard.index for shard in manifest.shards]
  if found != list(range(layout.num_shards)):
    raise CacheCorruptError(
      f'The ledger of {path} lists {len(found)} shards; expected '
      f'{layout.num_shards} in order. Remove the cache and build it '
      'again.'
    )
  if arrays.is_remote(path):
    return
  for shard in manifest.shards:
    for array in layout.arrays:
      entry = shard.files.get(array.name)
      if entry is not None:
        _check_size(path, layout, array, shard.index, entry.bytes)


def _check_size(
  path: pathlib.Path,
  layout: CacheLayout,
  array: ArrayLayout,
  shard: int,
  expected: int,
) -> None:
  file = path / array.file_name(shard)
  try:
    size: int | None = file.stat().st_size
  except FileNotFoundError:
    size = None
  if size != expected:
    start, stop = layout.passage_range(shard)
    state = 'is missing' if size is None else f'has {size} bytes'
    raise CacheCorruptError(
      f'{file} {state}; expected {expected} bytes (shard {shard}, passages '
      f'{start} to {stop - 1}). Start the same build again: it writes what is '
      'damaged.'
    )
