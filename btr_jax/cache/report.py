"""What a cache costs on disk, every part on its own line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import pathlib
from typing import Any

from btr_jax.cache import manifest as manifests
from btr_jax.cache.compression import format as compressed
from btr_jax.cache.layout import ArrayLayout, CacheLayout

PARTS = {
  'bits': ('bits',),
  'scale': ('scale',),
  'pointers': ('pointers',),
  'positions': ('merged', 'vector_starts', 'pointer_starts'),
  'merge_sizes': ('sizes',),
  'codebook': (),
  'token_ids': ('token_ids',),
  'text': (),  # no cache holds it; the line says so
  'offsets': ('passage_starts', 'passage_lengths'),
  'checksums': ('passage_checksums',),
  'manifest_and_metadata': (),
}
_METADATA = 'manifest_and_metadata'
_PART_OF_ARRAY = {
  array: part for part, arrays in PARTS.items() for array in arrays
}
# How the paper counts its corpus: 32.1 million passages "assuming 100 tokens
# per passage", 127 GB.
TOKENS_PER_PASSAGE = 100
CORPUS_PASSAGES = 32_100_000
CORPUS_TOKENS = 3_200_000_000
PAPER_BYTES = 127_000_000_000


def storage_report(
  path: str | pathlib.Path, dims: int | None = None
) -> dict[str, Any]:
  """Counts the bytes of a cache's files, compressed or not.

  Everything in the folder counts: rows, padding to whole chunks, shard
  indexes, manifest. `payload_bytes` is what the rows alone would take.
  `allocated_bytes` is what the file system gave (whole blocks).

  Args:
    path: folder of the cache.
    dims: of the reader's states, for the comparison with caches of numbers.
      None takes what the codec tells: a residual codec may keep fewer bits than
      there are dimensions, and then there is no comparison.

  Returns:
    JSON-able: codec_kind, passages, tokens, shards, compression (settings and
    counts, or None), parts (those of PARTS), total and
    total_without_token_ids; each part and total with bytes, payload_bytes,
    allocated_bytes and bytes_per_token; the totals also with bytes_per_passage,
    bytes_per_token_of_100 (were every passage 100 tokens long),
    bytes_of_corpus_tokens and bytes_of_corpus_passages (extrapolated to 3.2
    billion tokens and to 32.1 million passages of this length); comparison:
    bytes per token of caches of numbers, or None.

  Raises:
    FileNotFoundError: there is no cache.
    CacheCorruptError: its manifest is damaged.
  """
  path = pathlib.Path(path)
  compression = None
  if compressed.is_compressed(path):
    found = compressed.read_manifest(path)
    layout, arrays = found.layout, found.arrays
    rows = _compressed_rows(found)
    compression = {
      'ratio': found.settings.ratio,
      'block_size': found.settings.block_size,
      'stop_ids': len(found.stop_ids),
      'tokens': dict(found.counts),
    }
  else:
    layout = manifests.read_manifest(path).layout
    arrays = layout.arrays
    rows = {
      array.name: layout.num_tokens
      if array.per == 'tokens'
      else layout.num_passages
      for array in arrays
    }
  parts = _count_files(path, arrays, rows)
  total = _sum(parts.values())
  without = _sum(part for name, part in parts.items() if name != 'token_ids')
  # A corpus of empty passages has no tokens; its bytes are then the ratio.
  tokens = max(1, layout.num_tokens)
  for counts in (*parts.values(), total, without):
    counts['bytes_per_token'] = counts['bytes'] / tokens
  for counts in (total, without):
    size, passages = counts['bytes'], layout.num_passages
    counts['bytes_per_passage'] = size / passages
    counts['bytes_per_token_of_100'] = size / passages / TOKENS_PER_PASSAGE
    counts['bytes_of_corpus_tokens'] = round(size / tokens * CORPUS_TOKENS)
    counts['bytes_of_corpus_passages'] = round(
      size / passages * CORPUS_PASSAGES
    )
  return {
    'path': str(path),
    'codec_kind': layout.codec_kind,
    'passages': layout.num_passages,
    'tokens': layout.num_tokens,
    'shards': layout.num_shards,
    'compression': compression,
    'parts': parts,
    'total': total,
    'total_without_token_ids': without,
    'comparison': _comparison(layout, dims),
  }


def _count_files(
  path: pathlib.Path, arrays: Iterable[ArrayLayout], rows: Mapping[str, int]
) -> dict[str, dict[str, Any]]:
  parts = {
    name: {'bytes': 0, 'payload_bytes': 0, 'allocated_bytes': 0}
    for name in PARTS
  }
  for file in path.rglob('*'):
    if file.is_file():
      status = file.stat()
      part = _METADATA
      if file.name.startswith('c.'):
        part = _PART_OF_ARRAY[file.parent.name]
      elif file.name == compressed.CODEBOOK_NAME:
        part = 'codebook'
      parts[part]['bytes'] += status.st_size
      parts[part]['allocated_bytes'] += status.st_blocks * 512
  for array in arrays:
    payload = rows[array.name] * array.row_bytes
    parts[_PART_OF_ARRAY[array.name]]['payload_bytes'] += payload
  for name in ('codebook', _METADATA):
    parts[name]['payload_bytes'] = parts[name]['bytes']
  return parts


def _compressed_rows(manifest: compressed.CompressedManifest) -> dict[str, int]:
  return {
    array.name: sum(
      compressed.rows_of(array, shard) for shard in manifest.shards
    )
    for array in manifest.arrays
  }


def _comparison(layout: CacheLayout, dims: int | None) -> dict[str, Any] | None:
  """Bytes per token of the same states as numbers, without token ids."""
  if dims is None:
    dims = {
      'sign': 8 * layout.bits_bytes,
      'calibrated': 8 * layout.bits_bytes,
      'float': layout.bits_bytes // 2,
    }.get(layout.codec_kind)
  if dims is None:
    return None
  return {
    'dims': dims,
    'float32': 4.0 * dims,
    'float16': 2.0 * dims,
    'int8': dims + 2.0,  # and a float16 scale
    'paper': PAPER_BYTES / CORPUS_TOKENS,  # its claim, at 768 dimensions
  }


def _sum(parts: Any) -> dict[str, Any]:
  parts = list(parts)
  return {
    key: sum(part[key] for part in parts)
    for key in ('bytes', 'payload_bytes', 'allocated_bytes')
  }
