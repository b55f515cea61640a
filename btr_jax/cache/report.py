"""What a cache costs on disk, every part on its own line."""

from __future__ import annotations

import pathlib
from typing import Any

from btr_jax.cache import manifest as manifests
from btr_jax.cache.layout import CacheLayout

_PART_OF_ARRAY = {
  'bits': 'bits',
  'scale': 'scale',
  'token_ids': 'token_ids',
  'passage_starts': 'offsets',
  'passage_lengths': 'offsets',
}
_METADATA = 'manifest_and_metadata'


def storage_report(path: str | pathlib.Path) -> dict[str, Any]:
  """Counts the bytes of a cache's files.

  Everything in the folder counts: rows, padding to whole chunks, shard
  indexes, manifest. `payload_bytes` is what the rows alone would take.
  `allocated_bytes` is what the file system gave (whole blocks).

  Args:
    path: folder of the cache.

  Returns:
    JSON-able: codec_kind, passages, tokens, shards, parts {bits, scale,
    token_ids, offsets, manifest_and_metadata}, total and
    total_without_token_ids; each part and total with bytes, payload_bytes,
    allocated_bytes and bytes_per_token.

  Raises:
    FileNotFoundError: there is no cache.
    CacheCorruptError: its manifest is damaged.
  """
  path = pathlib.Path(path)
  layout = manifests.read_manifest(path).layout
  parts = {
    name: {'bytes': 0, 'payload_bytes': 0, 'allocated_bytes': 0}
    for name in (*dict.fromkeys(_PART_OF_ARRAY.values()), _METADATA)
  }
  for file in path.rglob('*'):
    if file.is_file():
      status = file.stat()
      part = _METADATA
      if file.name.startswith('c.'):
        part = _PART_OF_ARRAY[file.parent.name]
      parts[part]['bytes'] += status.st_size
      parts[part]['allocated_bytes'] += status.st_blocks * 512
  for name, part in _PART_OF_ARRAY.items():
    parts[part]['payload_bytes'] += _payload_bytes(layout, name)
  parts[_METADATA]['payload_bytes'] = parts[_METADATA]['bytes']
  total = _sum(parts.values())
  without = _sum(part for name, part in parts.items() if name != 'token_ids')
  for counts in (*parts.values(), total, without):
    # A corpus of empty passages has no tokens; its bytes are then the ratio.
    counts['bytes_per_token'] = counts['bytes'] / max(1, layout.num_tokens)
  return {
    'path': str(path),
    'codec_kind': layout.codec_kind,
    'passages': layout.num_passages,
    'tokens': layout.num_tokens,
    'shards': layout.num_shards,
    'parts': parts,
    'total': total,
    'total_without_token_ids': without,
  }


def _payload_bytes(layout: CacheLayout, name: str) -> int:
  array = layout.array(name)
  if array is None:
    return 0
  rows = layout.num_tokens if array.per == 'tokens' else layout.num_passages
  return rows * array.row_bytes


def _sum(parts: Any) -> dict[str, Any]:
  parts = list(parts)
  return {
    key: sum(part[key] for part in parts)
    for key in ('bytes', 'payload_bytes', 'allocated_bytes')
  }
