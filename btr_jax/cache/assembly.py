"""A cache while it is put together: lock, ledger, metadata, manifest.

What build, resume, append, repair and merge have in common. Shards come from
elsewhere; here is what makes them a cache, and what may be trusted of one that
a killed process left behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import concurrent.futures
from contextlib import AbstractContextManager
import dataclasses
import os
import threading

from btr_jax.cache import files, locks, places, shard_files
from btr_jax.cache import manifest as manifests
from btr_jax.cache.errors import CacheMismatchError, find_differences
from btr_jax.cache.layout import ArrayLayout, CacheLayout
from btr_jax.cache.ledger import Ledger
from btr_jax.cache.plan import Share


def check_same(
  place: places.Place,
  expected: manifests.Manifest,
  found: manifests.Manifest,
  fix: str,
) -> None:
  """Refuses a cache of another plan or of other fingerprints.

  Raises:
    CacheMismatchError: with every field that differs.
  """
  ours, theirs = expected.to_dict(), found.to_dict()
  differences = [
    difference
    for part in ('layout', 'fingerprints')
    for difference in find_differences(ours[part], theirs[part], f'{part}.')
  ]
  if differences:
    raise CacheMismatchError(place, differences, fix)


def files_of_shard(
  layout: CacheLayout, shard: int, rows: int
) -> dict[str, ArrayLayout]:
  """The files of a shard of so many tokens: name -> array."""
  return {
    array.file_name(shard): array
    for array in layout.arrays
    if layout.rows_of(array, shard, rows)
  }


def measure_shard(
  place: places.Place, layout: CacheLayout, shard: manifests.ShardEntry
) -> Mapping[str, manifests.FileEntry] | None:
  """What the shard's files are on disk; None if one is not as planned."""
  entries = {}
  for name, array in files_of_shard(layout, shard.index, shard.rows).items():
    planned = layout.rows_of(array, shard.index, shard.rows)
    try:
      entry = manifests.FileEntry(*place.measure(name))
    except OSError:
      return None
    if entry.bytes != array.file_bytes(planned):
      return None
    entries[array.name] = entry
  return entries


class Assembly:
  """A cache that is being put together; holds the lock of its writer.

  Attributes:
    place: where it stands.
    layout: its shape.
    entries: shard -> ledger entry, of the shards that are known to be there.
  """

  def __init__(
    self,
    place: places.Place,
    fresh: manifests.Manifest,
    share: Share = Share(),  # noqa: B008 (frozen)
  ):
    """Begins a cache, or takes up one that was begun with the same plan.

    Args:
      place: where it is to stand.
      fresh: manifest of the cache as it begins: layout and fingerprints.
      share: the shards that this writer may write.

    Raises:
      ValueError: `place` is no cache but in use.
      CacheMismatchError: a cache of another plan stands there; with a diff.
      CacheLockedError: another process writes to it.
      CacheWriteError: a write failed.
    """
    self.place, self.layout = place, fresh.layout
    self._fresh, self._share = fresh, share
    self._ledger = Ledger(place, share.tag)
    self._changing = threading.Lock()
    self._check_existing()
    with self.explained('the manifest'):
      self._lock = place.lock(share.tag)
    try:
      # Once more: another writer may have begun and ended since the check.
      self._complete = self._check_existing()
      self._remove_leftovers()
      if self._complete:
        shards = manifests.read_manifest(place).shards
        self.entries = {shard.index: shard for shard in shards}
      else:
        self.entries = self._ledger.read()
      self._begin()
    except BaseException:
      self.close()
      raise

  @property
  def ledger(self) -> Ledger:
    return self._ledger

  @property
  def is_complete(self) -> bool:
    """Whether the cache was complete and nothing has been touched since."""
    return self._complete

  @property
  def own_shards(self) -> range:
    return self._share.shards(self.layout.num_shards)

  def close(self) -> None:
    """Drops the lock; the cache stays as it is, and can be resumed."""
    self._lock.release()

  def explained(self, what: str) -> AbstractContextManager[None]:
    """`files.explained_write` that names the cache."""
    return files.explained_write(f'{what} of the cache {self.place}')

  def missing_shards(self, rows: Mapping[int, int] | None = None) -> list[int]:
    """Shards of this writer that must (again) be written.

    Every one in the ledger is held against the disk: size, SHA-256.

    Args:
      rows: shard -> tokens that it must have; None asks for no number.
    """

    def is_whole(shard: int) -> bool:
      entry = self.entries.get(shard)
      if entry is None or (rows is not None and entry.rows != rows[shard]):
        return False
      return measure_shard(self.place, self.layout, entry) == entry.files

    # Hashing lets go of Python's lock.
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as executor:
      whole = executor.map(is_whole, self.own_shards)
      missing = [
        shard
        for shard, there in zip(self.own_shards, whole, strict=True)
        if not there
      ]
    for shard in missing:
      self.entries.pop(shard, None)
    if missing and self._complete and not self._share.is_whole:
      raise ValueError(
        f'The cache {self.place} is finished, but damaged in shards '
        f'{missing[:5]}. Run `btr export-cache repair`, which takes all shards.'
      )
    return missing

  def strike(self, shard: int) -> None:
    """Takes a shard out of the ledger, before its files are touched."""
    with self._changing:
      self._reopen()
      self.entries.pop(shard, None)
    self._ledger.remove(shard)

  def enter(self, entry: manifests.ShardEntry) -> None:
    """Enters a shard whose files are whole."""
    self._ledger.write(entry)
    self.entries[entry.index] = entry

  def unwritten(self) -> list[int]:
    """Shards that no writer has entered yet."""
    if not self._complete and not self._share.is_whole:
      self._take_over_what_others_wrote()
    return sorted(set(range(self.layout.num_shards)) - set(self.entries))

  def finish(self) -> manifests.Manifest:
    """Ends the build: the whole ledger goes into the manifest.

    Raises:
      ValueError: shards are missing, or were cut since; names them.
    """
    missing = self.unwritten()
    if missing:
      raise ValueError(
        f'{len(missing)} shards are not written yet, the first of them '
        f'{missing[:5]}; write missing_shards() before finish().'
      )
    self._check_sizes()
    with self.explained('the manifest'):
      complete = dataclasses.replace(
        self._fresh,
        status=manifests.COMPLETE,
        metadata_files={
          name: manifests.FileEntry.of_pieces([content])
          for name, content in shard_files.metadata_files(self.layout).items()
        },
        shards=tuple(self.entries[i] for i in sorted(self.entries)),
      )
      manifests.write_manifest(self.place, complete, self._share.tag)
      self._ledger.clear()
    self._complete = True
    return complete

  def _check_sizes(self) -> None:
    """Shards of other writers must still be there; ours were just looked at."""
    for index in set(self.entries) - set(self.own_shards):
      entry = self.entries[index]
      for name, array in files_of_shard(self.layout, index, entry.rows).items():
        if self.place.size(name) != entry.files[array.name].bytes:
          raise ValueError(
            f'Shard {index} of {self.place} was written, but {name} is no '
            'longer as it was. Start the same build again.'
          )

  def _take_over_what_others_wrote(self) -> None:
    self.entries = self._ledger.read() | self.entries
    if manifests.read_manifest(self.place).status == manifests.COMPLETE:
      # Another share found all shards there, and ended the build.
      shards = manifests.read_manifest(self.place).shards
      self.entries = {shard.index: shard for shard in shards}

  def _check_existing(self) -> bool:
    """Whether a complete cache of this plan stands here; raises if another."""
    try:
      found = manifests.read_manifest(self.place)
    except FileNotFoundError:
      self._check_unused()
      return False
    check_same(
      self.place,
      self._fresh,
      found,
      'It was begun with another plan. Remove it, or build in a new folder; '
      '`btr export-cache append` adds passages to a finished one.',
    )
    return found.status == manifests.COMPLETE

  def _check_unused(self) -> None:
    if isinstance(self.place, places.FolderPlace):
      folder = self.place.folder
      if folder.exists() and not folder.is_dir():
        raise ValueError(f'{folder} is a file; give a folder for the cache.')
    used = [
      name
      for name in self.place.names()
      if not locks.is_lock(name) and not files.is_leftover(name)
    ]
    if used:
      raise ValueError(
        f'{self.place} is not a cache, but holds {used[:5]}. Give a new or '
        'empty folder, or, if it was one, `btr export-cache repair`.'
      )

  def _remove_leftovers(self) -> None:
    for name in self.place.names():
      # The other shares are at work: only what carries this one's name.
      if files.is_leftover(name, self._share.tag):
        self.place.remove(name)
    if self._complete:
      self._ledger.clear()

  def _begin(self) -> None:
    with self.explained('the manifest'):
      if not self._complete:
        if self.place.size(manifests.MANIFEST_NAME) is None:
          manifests.write_manifest(self.place, self._fresh, self._share.tag)
      # What zarr.json must say follows from the plan; one that says anything
      # else is not worth a diagnosis.
      for name, content in shard_files.metadata_files(self.layout).items():
        try:
          found = self.place.read(name)
        except FileNotFoundError:
          found = None
        if found != content:
          self.place.write(name, content, self._share.tag)

  def _reopen(self) -> None:
    """Turns a complete cache back into one that is being built (repair)."""
    if not self._complete:
      return
    for entry in self.entries.values():
      self._ledger.write(entry)
    manifests.write_manifest(self.place, self._fresh)
    self._complete = False


def present_bytes(place: places.Place, shard_names: Iterable[str]) -> int:
  """Bytes of those of the files that are there (in a folder; else 0)."""
  if not isinstance(place, places.FolderPlace):
    return 0
  return sum(place.size(name) or 0 for name in shard_names)
