"""Holds every file of a compressed cache against its manifest."""

from __future__ import annotations

from collections.abc import Callable
import pathlib

from btr_jax.cache import manifest as manifests
from btr_jax.cache.compression import format as format_lib
from btr_jax.cache.errors import CacheCorruptError
from btr_jax.cache.verify import Problem


def first_wrong_size(
  path: pathlib.Path, manifest: format_lib.CompressedManifest
) -> str | None:
  """What is wrong with the first file that is missing or has another size."""
  for shard in manifest.shards:
    for array in manifest.arrays:
      entry = shard.files.get(array.name)
      size = array.file_bytes(format_lib.rows_of(array, shard))
      name = array.file_name(shard.index)
      if size != (0 if entry is None else entry.bytes):
        return f'the manifest lists another size for {name} than its rows have'
      if entry is None:
        continue
      try:
        found = (path / name).stat().st_size
      except FileNotFoundError:
        return f'{name} is missing'
      if found != size:
        return f'{name} has {found} bytes, expected {size}'
  return None


def verify(
  path: str | pathlib.Path,
  progress: Callable[[int, int], None] | None = None,
) -> list[Problem]:
  """Reads a whole compressed cache and lists what is wrong with it.

  Args:
    path: folder of the cache.
    progress: called with (shards done, shards).

  Returns:
    The problems; none for a sound cache. A damaged one is mended by compressing
    its source again.

  Raises:
    FileNotFoundError: there is no compressed cache at `path`.
  """
  path = pathlib.Path(path)
  try:
    manifest = format_lib.read_manifest(path)
  except CacheCorruptError as error:
    return [Problem(str(error), format_lib.MANIFEST_NAME)]
  known = {format_lib.MANIFEST_NAME, *manifest.other_files}
  problems = [
    Problem(message, name)
    for name, entry in manifest.other_files.items()
    if (message := _problem(path / name, entry))
  ]
  for done, shard in enumerate(manifest.shards, 1):
    start, stop = manifest.layout.passage_range(shard.index)
    for array in manifest.arrays:
      if array.name not in shard.files:
        continue
      name = array.file_name(shard.index)
      known.add(name)
      message = _problem(path / name, shard.files[array.name])
      if message:
        problems.append(Problem(message, name, shard.index, (start, stop - 1)))
    if progress:
      progress(done, len(manifest.shards))
  foreign = {
    file.relative_to(path).as_posix()
    for file in path.rglob('*')
    if file.is_file()
  } - known
  return problems + [
    Problem('does not belong to the cache', name) for name in sorted(foreign)
  ]


def _problem(path: pathlib.Path, entry: manifests.FileEntry) -> str | None:
  try:
    found = manifests.FileEntry.of(path)
  except FileNotFoundError:
    return 'is missing'
  except OSError as error:
    return f'cannot be read: {error}'
  if found.bytes != entry.bytes:
    return f'has {found.bytes} bytes, expected {entry.bytes}'
  if found != entry:
    return 'its content has changed (SHA-256 differs from the manifest)'
  return None
