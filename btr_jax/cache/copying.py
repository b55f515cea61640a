"""Copies a finished cache to another folder or store, checked on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import concurrent.futures
import dataclasses

from btr_jax.cache import files, places
from btr_jax.cache import manifest as manifests
from btr_jax.cache.assembly import check_same
from btr_jax.cache.errors import CacheCorruptError, CacheIncompleteError
from btr_jax.cache.manifest import FileEntry, Manifest
from btr_jax.cache.plan import check_room

_COPIES_IN_FLIGHT = 4


@dataclasses.dataclass(frozen=True)
class Copied:
  """What an export did, or would do.

  Attributes:
    files: copied.
    bytes: of them.
    present: files that were there already, with the right checksum.
  """

  files: int
  bytes: int
  present: int


def finished_manifest(source: places.Place) -> Manifest:
  """The manifest; CacheIncompleteError if the build has not ended."""
  manifest = manifests.read_manifest(source)
  if manifest.status != manifests.COMPLETE:
    raise CacheIncompleteError(
      f'The cache {source} is not finished. Start the same build again: it '
      'goes on where it stopped.'
    )
  return manifest


def files_of(manifest: Manifest) -> Iterator[tuple[str, FileEntry]]:
  """Every file that a finished manifest names, with its entry."""
  yield from manifest.metadata_files.items()
  for shard in manifest.shards:
    for array in manifest.layout.arrays:
      if array.name in shard.files:
        yield array.file_name(shard.index), shard.files[array.name]


def export(
  source: places.Place,
  target: places.Place,
  progress: Callable[[int, int], None] | None = None,
  *,
  dry_run: bool = False,
) -> Copied:
  """Copies a finished cache; its manifest goes last.

  Until then a reader finds no cache in the target. Killed, it is resumed by
  the same call, which keeps the files whose checksum is right.

  Args:
    source: a finished cache.
    target: an empty place, or one with a part of this cache.
    progress: called with (bytes done, bytes).
    dry_run: only count what would be copied.

  Raises:
    FileNotFoundError, CacheIncompleteError, CacheCorruptError: the source is
      absent, unfinished, or a file is not what its manifest says.
    CacheMismatchError, ValueError: the target holds another cache, or files of
      something else.
    CacheLockedError, CacheWriteError: the target cannot be written.
  """
  manifest = finished_manifest(source)
  wanted = dict(files_of(manifest))
  _check_target(target, manifest, set(wanted))
  total = sum(entry.bytes for entry in wanted.values())
  done = 0

  def is_there(item: tuple[str, FileEntry]) -> bool:
    name, entry = item
    try:
      return FileEntry(*target.measure(name)) == entry
    except OSError:
      return False

  def copy(item: tuple[str, FileEntry]) -> int:
    name, entry = item
    content = source.read(name)
    if FileEntry.of_pieces([content]) != entry:
      raise CacheCorruptError(
        f'{source}/{name} is not what the manifest says. Run `btr export-cache '
        'repair`, then export again.'
      )
    with files.explained_write(f'{name} of the cache {target}'):
      target.write(name, content)
    return entry.bytes

  with concurrent.futures.ThreadPoolExecutor(_COPIES_IN_FLIGHT) as pool:
    there = list(pool.map(is_there, wanted.items()))
    items = [
      item
      for item, found in zip(wanted.items(), there, strict=True)
      if not found
    ]
    size = sum(entry.bytes for _, entry in items)
    result = Copied(len(items), size, len(wanted) - len(items))
    if dry_run:
      return result
    with files.explained_write(f'the lock of the cache {target}'):
      lock = target.lock()
    try:
      for name in target.names():
        if files.is_leftover(name):  # of an export that was killed
          target.remove(name)
      check_room(target, size)
      done = total - size
      for copied in pool.map(copy, items):
        done += copied
        if progress:
          progress(done, total)
      with files.explained_write(f'the manifest of the cache {target}'):
        manifests.write_manifest(target, manifest)
    finally:
      lock.release()
  return result


def _check_target(
  target: places.Place, manifest: Manifest, wanted: set[str]
) -> None:
  try:
    found = manifests.read_manifest(target)
  except FileNotFoundError:
    foreign = [
      name
      for name in target.names()
      if name not in wanted
      and name != manifests.COPY_NAME
      and not name.endswith(files.LOCK_SUFFIX)
      and not files.is_leftover(name)
    ]
    if foreign:
      raise ValueError(
        f'{target} holds files of something else: {foreign[:5]}. Give a new '
        'or empty place.'
      ) from None
    return
  check_same(
    target, manifest, found, 'Export to a new place, or remove that cache.'
  )
