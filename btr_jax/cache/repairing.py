"""Brings a damaged cache to where a build can mend it."""

from __future__ import annotations

import re

from btr_jax.cache import manifest as manifests
from btr_jax.cache import places
from btr_jax.cache.assembly import check_same
from btr_jax.cache.errors import CacheCorruptError, CacheMismatchError
from btr_jax.cache.layout import CacheLayout
from btr_jax.cache.manifest import Manifest

_MARKS = (manifests.MANIFEST_NAME, manifests.COPY_NAME, 'zarr.json')
_SHARD_FILE = re.compile(r'(\w+)/c\.(\d+)(\.0)?')


def readable_manifests(place: places.Place) -> list[Manifest]:
  """The manifest and its copy, those of them that are sound."""
  found = []
  for name in (manifests.MANIFEST_NAME, manifests.COPY_NAME):
    try:
      found.append(manifests.read_manifest(place, name))
    except (FileNotFoundError, CacheCorruptError):
      continue
  return found


def passages_per_shard(place: places.Place) -> int | None:
  """What the cache was planned with, if that can still be read.

  Raises:
    FileNotFoundError: no cache was ever there.
  """
  if not {*_MARKS} & {*place.names()}:
    raise FileNotFoundError(
      f'{place} is not a cache, nor what is left of one: it has none of '
      f'{", ".join(_MARKS)}. Build one by `btr export-cache build`.'
    )
  return next(
    (found.layout.passages_per_shard for found in readable_manifests(place)),
    None,
  )


def begin(place: places.Place, fresh: Manifest) -> None:
  """Restores the manifest and removes shards that do not belong here.

  Args:
    place: where the cache stands.
    fresh: layout and fingerprints that it must have.

  Raises:
    CacheMismatchError: it is a cache of something else; with a diff.
    CacheLockedError: another process writes to it.
  """
  lock = place.lock()
  try:
    _restore_manifest(place, fresh)
    for name in foreign_shards(place, fresh.layout):
      place.remove(name)
  finally:
    lock.release()


def _restore_manifest(place: places.Place, fresh: Manifest) -> None:
  refusal = None
  for candidate in readable_manifests(place):
    try:
      check_same(
        place, fresh, candidate, 'Repair it with the reader that built it.'
      )
    except CacheMismatchError as error:
      refusal = refusal or error
      continue
    # A copy that is older than a build under way says `complete`, which only
    # makes the build look at every shard.
    manifests.write_manifest(place, candidate)
    return
  if refusal:
    raise refusal
  manifests.write_manifest(place, fresh)


def foreign_shards(place: places.Place, layout: CacheLayout) -> list[str]:
  """Files in the arrays' folders that are no shard of the layout."""
  folders = {array.name for array in layout.arrays}
  known = {
    array.file_name(shard)
    for array in layout.arrays
    for shard in range(layout.num_shards)
  }
  return [
    name
    for name in place.names()
    if (match := _SHARD_FILE.fullmatch(name))
    and match[1] in folders
    and name not in known
  ]
