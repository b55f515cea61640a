"""Holds every file of a cache against the ledger."""

from __future__ import annotations

from collections.abc import Callable
import concurrent.futures
import dataclasses
import os
import pathlib

from btr_jax.cache import locks, places
from btr_jax.cache import manifest as manifests
from btr_jax.cache.errors import CacheCorruptError


@dataclasses.dataclass(frozen=True)
class Problem:
  """One thing that is wrong with a cache.

  Attributes:
    message: what is wrong.
    file: path inside the cache.
    shard: number of the shard; None for files of the whole cache.
    passages: first and last passage concerned; None like shard.
  """

  message: str
  file: str
  shard: int | None = None
  passages: tuple[int, int] | None = None

  def __str__(self) -> str:
    if self.shard is None:
      return f'{self.file}: {self.message}'
    first, last = self.passages
    return (
      f'shard {self.shard} (passages {first} to {last}), {self.file}: '
      f'{self.message}'
    )


def verify(
  path: str | pathlib.Path | places.Place,
  progress: Callable[[int, int], None] | None = None,
) -> list[Problem]:
  """Reads a whole cache and lists what is wrong with it.

  Args:
    path: folder or URL of the cache.
    progress: called with (shards done, shards).

  Returns:
    The problems; an empty list for a sound cache. Repairing with the same
    corpus and reader mends them.

  Raises:
    FileNotFoundError: there is no cache at `path`.
  """
  place = places.open_place(path)
  try:
    manifest = manifests.read_manifest(place)
  except CacheCorruptError as error:
    return [Problem(str(error), manifests.MANIFEST_NAME)]
  except FileNotFoundError:
    if place.size(manifests.COPY_NAME) is None:
      raise
    return [Problem('is missing, its copy is there', manifests.MANIFEST_NAME)]
  if manifest.status != manifests.COMPLETE:
    return [
      Problem(
        'the build has not finished; start it again', manifests.MANIFEST_NAME
      )
    ]
  problems = _ledger_problems(manifest) + _copy_problems(place, manifest)
  for name, entry in manifest.metadata_files.items():
    message = _file_problem(place, name, entry)
    if message:
      problems.append(Problem(message, name))

  def check(shard: manifests.ShardEntry) -> list[Problem]:
    start, stop = manifest.layout.passage_range(shard.index)
    found = []
    for array in manifest.layout.arrays:
      if array.name not in shard.files:
        continue
      name = array.file_name(shard.index)
      message = _file_problem(place, name, shard.files[array.name])
      if message:
        found.append(Problem(message, name, shard.index, (start, stop - 1)))
    return found

  # Hashing lets go of Python's lock.
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    for done, found in enumerate(pool.map(check, manifest.shards), 1):
      problems += found
      if progress:
        progress(done, len(manifest.shards))
  return problems + _foreign_files(place, manifest)


def _copy_problems(
  place: places.Place, manifest: manifests.Manifest
) -> list[Problem]:
  """Whether the copy says what the manifest says."""
  name = manifests.COPY_NAME
  try:
    same = place.read(name) == place.read(manifests.MANIFEST_NAME)
  except FileNotFoundError:
    return [Problem('is missing', name)]
  if same:
    return []
  try:
    copy = manifests.read_manifest(place, name)
  except CacheCorruptError as error:
    return [Problem(str(error), name)]
  if copy == manifest:
    return [Problem('has other bytes than the manifest', name)]
  return [
    Problem(
      f'describes another cache than {manifests.MANIFEST_NAME}: one of the two '
      'is stale',
      name,
    )
  ]


def _ledger_problems(manifest: manifests.Manifest) -> list[Problem]:
  """Whether the ledger lists what the layout says there must be."""
  layout = manifest.layout
  problems = []
  listed = {shard.index: shard for shard in manifest.shards}
  for index in range(layout.num_shards):
    start, stop = layout.passage_range(index)
    shard = listed.get(index)
    expected = {}
    if shard is not None:
      expected = {
        array.name: array.file_bytes(layout.rows_of(array, index, shard.rows))
        for array in layout.arrays
      }
    found = (
      {}
      if shard is None
      else {name: entry.bytes for name, entry in shard.files.items()}
    )
    if shard is None or found != {k: v for k, v in expected.items() if v}:
      problems.append(
        Problem(
          'the ledger does not list the files that the layout asks for',
          manifests.MANIFEST_NAME,
          index,
          (start, stop - 1),
        )
      )
  tokens = sum(shard.rows for shard in manifest.shards)
  if tokens != layout.num_tokens:
    problems.append(
      Problem(
        f'the ledger has {tokens} tokens, the layout {layout.num_tokens}',
        manifests.MANIFEST_NAME,
      )
    )
  return problems


def _file_problem(
  place: places.Place, name: str, entry: manifests.FileEntry
) -> str | None:
  try:
    size, sha256 = place.measure(name)
  except FileNotFoundError:
    return 'is missing'
  except OSError as error:
    return f'cannot be read: {error}'
  if size != entry.bytes:
    return f'has {size} bytes, expected {entry.bytes}'
  if sha256 != entry.sha256:
    return 'its content has changed (SHA-256 differs from the ledger)'
  return None


def _foreign_files(
  place: places.Place, manifest: manifests.Manifest
) -> list[Problem]:
  known = {
    manifests.MANIFEST_NAME,
    manifests.COPY_NAME,
    *manifest.metadata_files,
  }
  for shard in manifest.shards:
    known |= {
      array.file_name(shard.index)
      for array in manifest.layout.arrays
      if array.name in shard.files
    }
  return [
    Problem('does not belong to the cache', name)
    for name in place.names()
    if name not in known and not locks.is_lock(name)
  ]
