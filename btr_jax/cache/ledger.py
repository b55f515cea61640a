"""The ledger of a build that is under way: one small file per whole shard.

One file each, so that several writers never touch the same one. When the
build ends the entries move into the manifest.
"""

from __future__ import annotations

import pathlib
import shutil

from btr_jax.cache import files
from btr_jax.cache import manifest as manifests
from btr_jax.cache.errors import CacheCorruptError
from btr_jax.cache.manifest import ShardEntry


class Ledger:
  """The folder `ledger/` of a cache."""

  def __init__(self, cache_folder: pathlib.Path):
    self._folder = cache_folder / manifests.LEDGER_NAME

  def create(self) -> None:
    self._folder.mkdir(exist_ok=True)
    files.sync_folder(self._folder.parent)

  def read(self) -> dict[int, ShardEntry]:
    """All readable entries by shard; a damaged one counts as absent."""
    entries = {}
    for file in self._folder.glob('shard_*.json'):
      try:
        values = manifests.decode_json(file.read_bytes(), file)
        entry = ShardEntry.from_dict(values)
      except (CacheCorruptError, KeyError, TypeError):
        # Its shard is then no longer known to be whole, and is written again.
        continue
      if file == self._file(entry.index):
        entries[entry.index] = entry
    return entries

  def write(self, entry: ShardEntry) -> None:
    """Enters a shard, whole or not at all."""
    content = manifests.encode_json(entry.to_dict())
    files.write_atomic(self._file(entry.index), content)

  def remove(self, shard: int) -> None:
    """Strikes a shard out, for good, before its files are touched."""
    file = self._file(shard)
    if file.exists():
      file.unlink()
      files.sync_folder(self._folder)

  def clear(self) -> None:
    shutil.rmtree(self._folder, ignore_errors=True)

  def _file(self, shard: int) -> pathlib.Path:
    return self._folder / f'shard_{shard:08d}.json'
