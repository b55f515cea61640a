"""Holds every file of a cache against the ledger."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import pathlib

from btr_jax.cache import files
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
  path: str | pathlib.Path,
  progress: Callable[[int, int], None] | None = None,
) -> list[Problem]:
  """Reads a whole cache and lists what is wrong with it.

  Args:
    path: folder of the cache.
    progress: called with (shards done, shards).

  Returns:
    The problems; an empty list for a sound cache. Building again with the same
    plan mends damaged shards.

  Raises:
    FileNotFoundError: there is no cache at `path`.
  """
  path = pathlib.Path(path)
  try:
    manifest = manifests.read_manifest(path)
  except CacheCorruptError as error:
    return [Problem(str(error), manifests.MANIFEST_NAME)]
  if manifest.status != manifests.COMPLETE:
    return [
      Problem(
        'the build has not finished; start it again', manifests.MANIFEST_NAME
      )
    ]
  problems = _ledger_problems(manifest)
  for name, entry in manifest.metadata_files.items():
    message = _file_problem(path / name, entry)
    if message:
      problems.append(Problem(message, name))
  layout = manifest.layout
  for done, shard in enumerate(manifest.shards, 1):
    for array in layout.arrays:
      if array.name not in shard.files:
        continue
      name = array.file_name(shard.index)
      message = _file_problem(path / name, shard.files[array.name])
      if message:
        start, stop = layout.passage_range(shard.index)
        problems.append(Problem(message, name, shard.index, (start, stop - 1)))
    if progress:
      progress(done, len(manifest.shards))
  return problems + _foreign_files(path, manifest)


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


def _file_problem(path: pathlib.Path, entry: manifests.FileEntry) -> str | None:
  try:
    size = path.stat().st_size
    if size != entry.bytes:
      return f'has {size} bytes, expected {entry.bytes}'
    if files.sha256_of(path) != entry.sha256:
      return 'its content has changed (SHA-256 differs from the ledger)'
  except FileNotFoundError:
    return 'is missing'
  except OSError as error:
    return f'cannot be read: {error}'
  return None


def _foreign_files(
  path: pathlib.Path, manifest: manifests.Manifest
) -> list[Problem]:
  known = {manifests.MANIFEST_NAME, files.LOCK_NAME, *manifest.metadata_files}
  for shard in manifest.shards:
    known |= {
      array.file_name(shard.index)
      for array in manifest.layout.arrays
      if array.name in shard.files
    }
  return [
    Problem('does not belong to the cache', name)
    for name in sorted(
      file.relative_to(path).as_posix()
      for file in path.rglob('*')
      if file.is_file()
    )
    if name not in known
  ]
