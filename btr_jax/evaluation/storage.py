"""What a cache takes on disk, part by part, as people read it.

The counting itself is `btr_jax.cache.storage_report`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import os
from typing import Any

import rich.table

from btr_jax.data import records

_NAMES = {
  'scale': 'scales',
  'pointers': 'pointers of merged tokens',
  'positions': 'positions of vectors',
  'merge_sizes': 'merge sizes',
  'codebook': 'codebook of stop words',
  'token_ids': 'token ids',
  'text': 'text (not stored)',
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
  tokens = max(1, report['tokens'])
  result = rich.table.Table(
    title=(
      f'{report["passages"]:,} passages, {report["tokens"]:,} tokens, codec '
      f'{report["codec_kind"]}'
    )
  )
  result.add_column('part')
  for title in ('size', 'bytes', 'bytes/token', 'bytes/passage'):
    result.add_column(title, justify='right')

  def add(name: str, size: int, **style: Any) -> None:
    result.add_row(
      name,
      amount(size) if size >= 0 else f'-{amount(-size)}',
      f'{size:,}',
      f'{size / tokens:.2f}',
      f'{size / report["passages"]:.1f}',
      **style,
    )

  for name, counts in report['parts'].items():
    add(_NAMES.get(name, name), counts['bytes'])
  result.add_section()
  total = report['total']
  add('all', total['bytes'], style='bold')
  add('all but token ids', report['total_without_token_ids']['bytes'])
  add('blocks beyond file sizes', total['allocated_bytes'] - total['bytes'])
  return result


def corpus_table(report: Mapping[str, Any]) -> rich.table.Table:
  """The cache at the size of the paper's corpus, beside other caches.

  Args:
    report: from `btr_jax.cache.storage_report`.

  Returns:
    A table for rich's console.
  """
  total = report['total']
  per_passage = report['tokens'] / report['passages']
  result = rich.table.Table(
    title="extrapolated to the paper's corpus",
    caption=(
      f'this cache has {per_passage:.1f} tokens per passage; the paper '
      'assumes 100. Its 127 GB are its claim, for 768 dimensions; caches of '
      'numbers are counted without token ids.'
    ),
  )
  result.add_column('cache')
  for title in (
    'bytes/token',
    'at 3.2 billion tokens',
    'at 32.1 million passages',
    'bytes/token if 100 per passage',
  ):
    result.add_column(title, justify='right')
  for name, counts in (
    ('this one', total),
    ('without token ids', report['total_without_token_ids']),
  ):
    result.add_row(
      name,
      f'{counts["bytes_per_token"]:.2f}',
      amount(counts['bytes_of_corpus_tokens']),
      amount(counts['bytes_of_corpus_passages']),
      f'{counts["bytes_per_token_of_100"]:.2f}',
    )
  comparison = report['comparison']
  if comparison:
    for name in ('float32', 'float16', 'int8'):
      size = comparison[name]
      result.add_row(
        f'{name}, {comparison["dims"]} dimensions',
        f'{size:.2f}',
        amount(round(size * 3.2e9)),
        amount(round(size * per_passage * 32.1e6)),
        f'{size * per_passage / 100:.2f}',
      )
    result.add_row(
      'paper (claim)', f'{comparison["paper"]:.1f}', '127 GB', '127 GB', '39.7'
    )
  return result


def plot_curve(
  points: Sequence[Mapping[str, Any]], path: str | os.PathLike
) -> None:
  """Draws bytes per token against the merge ratio as a PNG.

  Args:
    points: from `btr benchmark-cache curve`: ratio, report and, if measured,
      em.
    path: the file to write.
  """
  # Imported here: it takes a second, and not everybody draws.
  import matplotlib.figure

  figure = matplotlib.figure.Figure(figsize=(6.5, 4), layout='constrained')
  axes = figure.subplots()
  ratios = [point['ratio'] for point in points]
  for key, label, style in (
    ('total', 'all files', 'o-'),
    ('total_without_token_ids', 'without token ids', 's--'),
  ):
    values = [point['report'][key]['bytes_per_token'] for point in points]
    axes.plot(ratios, values, style, label=label)
  bits = [p['report']['parts']['bits']['bytes_per_token'] for p in points]
  axes.plot(ratios, bits, '^:', label='bits alone')
  axes.set_xlabel('share of the occurrences of an id that is merged')
  axes.set_ylabel('bytes on disk per token of the corpus')
  axes.set_ylim(bottom=0)
  axes.grid(alpha=0.3)
  axes.spines[['top', 'right']].set_visible(False)
  if all(point.get('em') is not None for point in points):
    right = axes.twinx()
    right.plot(
      ratios, [p['em'] for p in points], 'D-', color='black', label='EM'
    )
    right.set_ylabel('exact match, %')
    right.set_ylim(0, 100)
    right.legend(loc='upper right', fontsize=8)
  axes.legend(loc='lower left', fontsize=8)
  with records.atomic_writer(path, binary=True) as file:
    figure.savefig(file, dpi=150, format='png')
