"""Makes one cache of partial ones that independent machines built.

Each part was begun with the same plan and has some of its shards. Shards are
checked against the part's ledger on the way, whatever wrote them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import hashlib

import numpy as np

from btr_jax.cache import manifest as manifests
from btr_jax.cache import places
from btr_jax.cache.assembly import Assembly, check_same, files_of_shard
from btr_jax.cache.errors import CacheCorruptError
from btr_jax.cache.layout import CacheLayout
from btr_jax.cache.ledger import Ledger
from btr_jax.cache.manifest import Manifest, ShardEntry
from btr_jax.cache.plan import check_room


@dataclasses.dataclass(frozen=True)
class Coverage:
  """Which part has which shard.

  Attributes:
    manifest: layout and fingerprints of the whole, status `building`.
    source: shard -> number of the part and its ledger entry.
    missing: shards that no part has.
    bytes: of the shards that the parts have.
  """

  manifest: Manifest
  source: Mapping[int, tuple[int, ShardEntry]]
  missing: tuple[int, ...]
  bytes: int


def coverage(parts: Sequence[places.Place]) -> Coverage:
  """Reads the parts' manifests and ledgers; writes nothing.

  Raises:
    ValueError: no parts were given.
    FileNotFoundError: one is no cache.
    CacheMismatchError: they are of different plans; with a diff.
    CacheCorruptError: a manifest is damaged.
  """
  if not parts:
    raise ValueError('No partial caches were given; expected at least one.')
  source: dict[int, tuple[int, ShardEntry]] = {}
  fresh = None
  for number, part in enumerate(parts):
    found = manifests.read_manifest(part)
    if fresh is None:
      fresh = Manifest(found.layout, found.fingerprints)
    check_same(
      part,
      fresh,
      found,
      f'Expected is what {parts[0]} has. Merge parts of one corpus, reader '
      'and plan.',
    )
    entries = (
      found.shards
      if found.status == manifests.COMPLETE
      else Ledger(part).read().values()
    )
    for entry in entries:
      source.setdefault(entry.index, (number, entry))
  missing = set(range(fresh.layout.num_shards)) - set(source)
  size = sum(
    file.bytes for _, entry in source.values() for file in entry.files.values()
  )
  return Coverage(fresh, source, tuple(sorted(missing)), size)


def merge(
  parts: Sequence[places.Place],
  target: places.Place,
  progress: Callable[[int, int], None] | None = None,
) -> Manifest:
  """Copies the parts' shards into one cache and ends it.

  Killed, it is resumed by the same call; what is copied is checked, not
  copied again. The parts are left as they are.

  Args:
    parts: finished or unfinished caches of one plan.
    target: where the whole is to stand; may be one of the parts.
    progress: called with (shards done, shards).

  Raises:
    ValueError: shards are missing in all parts; names them.
    CacheCorruptError: a shard is not what its ledger says, or the lengths of
      the passages are not those that were planned; names it.
    CacheMismatchError, CacheLockedError, CacheWriteError: as a build.
  """
  found = coverage(parts)
  layout = found.manifest.layout
  if found.missing:
    first, last = layout.passage_range(found.missing[0])
    raise ValueError(
      f'{len(found.missing)} of {layout.num_shards} shards are in none of the '
      f'parts, the first is {found.missing[0]} (passages {first} to '
      f'{last - 1}). Finish the shares that are missing, then merge again.'
    )
  assembly = Assembly(target, found.manifest)
  try:
    missing = assembly.missing_shards()
    done = layout.num_shards - len(missing)
    wanted = [found.source[shard][1] for shard in missing]
    check_room(
      target,
      sum(file.bytes for entry in wanted for file in entry.files.values()),
    )
    for shard in missing:
      number, entry = found.source[shard]
      _copy_shard(parts[number], assembly, entry)
      done += 1
      if progress:
        progress(done, layout.num_shards)
    check_lengths(target, layout)
    return assembly.finish()
  finally:
    assembly.close()


def _copy_shard(
  part: places.Place, assembly: Assembly, entry: ShardEntry
) -> None:
  names = files_of_shard(assembly.layout, entry.index, entry.rows)
  first, last = assembly.layout.passage_range(entry.index)
  what = f'shard {entry.index} (passages {first} to {last - 1})'
  with assembly.explained(what):
    assembly.strike(entry.index)
  for name, array in names.items():
    try:
      content = part.read(name)
    except FileNotFoundError:
      content = b''
    if manifests.FileEntry.of_pieces([content]) != entry.files.get(array.name):
      raise CacheCorruptError(
        f'{part}/{name}, {what}, is missing or not what its ledger says. '
        'Start the build of that part again: it writes what is damaged.'
      )
    with assembly.explained(what):
      assembly.place.write(name, content)
  with assembly.explained(what):
    assembly.enter(entry)


def check_lengths(place: places.Place, layout: CacheLayout) -> None:
  """Holds the stored lengths of all passages against the plan's checksum.

  Raises:
    CacheCorruptError: they differ.
  """
  array = layout.array('passage_lengths')
  digest = hashlib.sha256()
  for shard in range(layout.num_shards):
    start, stop = layout.passage_range(shard)
    content = place.read(array.file_name(shard))
    digest.update(content[: (stop - start) * np.dtype(array.dtype).itemsize])
  if digest.hexdigest() != layout.lengths_sha256:
    raise CacheCorruptError(
      f'The lengths of the passages in {place} are not those that were '
      'planned: a shard is of another corpus. Build the parts again.'
    )
