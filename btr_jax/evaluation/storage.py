"""What a cache takes on disk, part by part, as people read it.

The counting itself is `btr_jax.cache.storage_report`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import rich.table

_NAMES = {
  'bits': 'bits',
  'scale': 'scales',
  'token_ids': 'token ids',
  'offsets': 'where passages start',
  'manifest_and_metadata': 'manifest and metadata',
}


def amount(count: int) -> str:
  """12345678 -> '12.3 MB' (powers of ten, as disks are sold)."""
  value = float(count)
  for unit in ('B', 'kB', 'MB', 'GB'):
    if value < 999.5:
      return f'{value:.3g} {unit}'
    value /= 1000
  return f'{value:.3g} TB'


def table(report: Mapping[str, Any]) -> rich.table.Table:
  """Bytes per token of every part of a cache, and of the whole.

  Args:
    report: from `btr_jax.cache.storage_report`.

  Returns:
    A table for rich's console.
  """
  result = rich.table.Table(
    title=(
      f'{report["passages"]:,} passages, {report["tokens"]:,} tokens, codec '
      f'{report["codec_kind"]}'
    )
  )
  result.add_column('part')
  for title in ('size', 'bytes', 'bytes/token'):
    result.add_column(title, justify='right')

  def add(name: str, counts: Mapping[str, Any], **style: Any) -> None:
    result.add_row(
      name,
      amount(counts['bytes']),
      f'{counts["bytes"]:,}',
      f'{counts["bytes_per_token"]:.2f}',
      **style,
    )

  for name, counts in report['parts'].items():
    add(_NAMES.get(name, name), counts)
  result.add_section()
  add('all', report['total'], style='bold')
  add('all but token ids', report['total_without_token_ids'])
  return result
