"""The ledger of a build that is under way: one small file per whole shard.

One file each, so that several writers never touch the same one. When the
build ends the entries move into the manifest. Beside them stand the lengths
of the passages, so that who resumes, or joins, need not tokenize for them.
"""

from __future__ import annotations

from collections.abc import Mapping
import hashlib
import re
from typing import Any

from jaxtyping import UInt16
import numpy as np

from btr_jax.cache import manifest as manifests
from btr_jax.cache.errors import CacheCorruptError
from btr_jax.cache.manifest import ShardEntry
from btr_jax.cache.places import Place

_LENGTHS = 'lengths.u2'
_LENGTHS_OF = 'lengths.json'
_ENTRY = re.compile(rf'{manifests.LEDGER_NAME}/shard_(\d{{8,}})\.json')


def is_in_ledger(name: str) -> bool:
  """Whether a file of this name (relative to the cache) is the ledger's."""
  return name.startswith(f'{manifests.LEDGER_NAME}/')


class Ledger:
  """The folder `ledger/` of a cache."""

  def __init__(self, place: Place, tag: str = ''):
    self._place, self._tag = place, tag

  def read(self) -> dict[int, ShardEntry]:
    """All readable entries by shard; a damaged one counts as absent."""
    entries = {}
    for name in self._place.names(manifests.LEDGER_NAME):
      matched = _ENTRY.fullmatch(name)
      if not matched:
        continue
      try:
        values = manifests.decode_json(self._place.read(name), name)
        entry = ShardEntry.from_dict(values)
      except (CacheCorruptError, FileNotFoundError, KeyError, TypeError):
        # Its shard is then no longer known to be whole, and is written again.
        continue
      if entry.index == int(matched[1]):
        entries[entry.index] = entry
    return entries

  def write(self, entry: ShardEntry) -> None:
    """Enters a shard, whole or not at all."""
    content = manifests.encode_json(entry.to_dict())
    self._place.write(self._name(entry.index), content, self._tag)

  def remove(self, shard: int) -> None:
    """Strikes a shard out, for good, before its files are touched."""
    self._place.remove(self._name(shard))

  def write_lengths(
    self,
    lengths: UInt16[np.ndarray, 'passages'],
    passage_length: int,
    of: Mapping[str, Any],
  ) -> None:
    """Keeps the lengths of the passages.

    Args:
      lengths: uint16 [passages].
      passage_length: tokens that passages are padded to.
      of: JSON-able; what they are the lengths of.
    """
    content = lengths.astype('<u2').tobytes()
    record = {
      'of': dict(of),
      'passage_length': passage_length,
      'sha256': hashlib.sha256(content).hexdigest(),
    }
    self._place.write(f'{manifests.LEDGER_NAME}/{_LENGTHS}', content, self._tag)
    self._place.write(
      f'{manifests.LEDGER_NAME}/{_LENGTHS_OF}',
      manifests.encode_json(record),
      self._tag,
    )

  def read_lengths(
    self, of: Mapping[str, Any]
  ) -> tuple[UInt16[np.ndarray, 'passages'], int] | None:
    """Lengths and passage_length if kept of the very same, else None."""
    try:
      record = manifests.decode_json(
        self._place.read(f'{manifests.LEDGER_NAME}/{_LENGTHS_OF}'), _LENGTHS_OF
      )
      content = self._place.read(f'{manifests.LEDGER_NAME}/{_LENGTHS}')
    except (FileNotFoundError, CacheCorruptError):
      return None
    whole = record.get('sha256') == hashlib.sha256(content).hexdigest()
    if not whole or record.get('of') != dict(of):
      return None
    lengths = np.frombuffer(content, '<u2').astype(np.uint16)
    return lengths, record['passage_length']

  def clear(self) -> None:
    """Removes it, folder and all."""
    self._place.remove_folder(manifests.LEDGER_NAME)

  def _name(self, shard: int) -> str:
    return f'{manifests.LEDGER_NAME}/shard_{shard:08d}.json'
