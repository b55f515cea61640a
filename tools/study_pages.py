"""What `btr study-training` shows: a table, and pictures."""

from __future__ import annotations

from collections.abc import Mapping
import os
from typing import Any

import numpy as np

from btr_jax.data import records
from btr_jax.evaluation import report

# Of the values, what stands in the table.
_VALUES = {
  'loss': 'loss',
  'distill_loss': 'distance to teacher',
  'read_error': 'error, read',
  'stream_error': 'error, stream',
}
_CODE = 'code '
_JOINT = 'joint'


def _cell(found, sign=''):
  if found is None:
    return '-'
  return (
    f'{found["mean"]:{sign}.1f} [{found["low"]:{sign}.1f}, '
    f'{found["high"]:{sign}.1f}]'
  )


def _bytes(row):
  size = row.get('bytes_per_token')
  return '-' if size is None else f'{size:g}'


def markdown(record: Mapping[str, Any]) -> str:
  """The rows as a table."""
  rows = record['rows']
  metrics = list(rows[0]['scores'])
  values = [name for name in _VALUES if any(name in r['values'] for r in rows)]
  shares = any(row.get('of_joint') for row in rows)
  head = ['variant', 'against', 'bytes/token', 'seeds']
  for metric in metrics:
    head += [report.title_of(metric), 'difference']
    head += ['% of joint'] * shares
  head += [_VALUES[name] for name in values]

  lines = [head, ['---'] * len(head)]
  for row in rows:
    line = [row['variant'], row['against'] or '-', _bytes(row)]
    line.append(str(len(row['seeds'])))
    for metric in metrics:
      line.append(_cell(row['scores'].get(metric)))
      line.append(_cell(row['differences'].get(metric), '+'))
      if shares:
        line.append(_cell(row['of_joint'].get(metric)))
    for name in values:
      value = row['values'].get(name)
      line.append('-' if value is None else f'{value:.4g}')
    lines.append(line)
  table = '\n'.join(f'| {" | ".join(line)} |' for line in lines)
  split = record.get('answered', {}).get('split', 'validation')
  return (
    f'{record["questions"]} {split} questions at most; in brackets 95 % '
    'intervals, seeds and questions drawn anew; differences to the variant '
    '`against`, on the same seeds and questions.\n\n' + table + '\n'
  )


def plot(record: Mapping[str, Any], path: str | os.PathLike) -> None:
  """Draws the rows as PNG: over bytes per token if most are codes."""
  # Imported here: it takes a second, and not everybody draws.
  import matplotlib.figure

  rows = record['rows']
  metric = next(iter(rows[0]['scores']))
  codes = [row for row in rows if row['variant'].startswith(_CODE)]
  if 2 * len(codes) > len(rows):
    figure = matplotlib.figure.Figure(figsize=(9, 4.8), layout='constrained')
    ceilings = [row for row in rows if row['variant'] == _JOINT]
    _draw_codes(figure.subplots(), codes, ceilings, metric)
  else:
    height = 1.6 + 0.36 * len(rows)
    figure = matplotlib.figure.Figure(
      figsize=(10, height), layout='constrained'
    )
    _draw_rows(figure.subplots(1, 2, sharey=True), rows, metric)
  with records.atomic_writer(path, binary=True) as file:
    figure.savefig(file, dpi=130, format='png')


def _draw_rows(both, rows, metric):
  """Scores, and differences to what a variant is compared to."""
  left, right = both
  places = np.arange(len(rows))
  stages = sorted({row['stage'] for row in rows})
  for axes, part in ((left, 'scores'), (right, 'differences')):
    for place, row in zip(places, rows, strict=True):
      found = row[part].get(metric)
      if found is None:
        continue
      colour = f'C{stages.index(row["stage"])}'
      axes.plot([found['low'], found['high']], [place] * 2, color=colour, lw=2)
      axes.plot(found['mean'], place, 'o', color=colour)
      seeds = found.get('by_seed', ())
      axes.plot(seeds, [place] * len(seeds), '|', color='black', markersize=7)
    axes.grid(axis='x', alpha=0.3)
    axes.spines[['top', 'right']].set_visible(False)
  right.axvline(0, color='black', lw=1)
  left.set_yticks(places, [row['variant'] for row in rows])
  left.invert_yaxis()
  title = report.title_of(metric)
  left.set_xlabel(f'{title}, % (right is better; | a seed)')
  right.set_xlabel(f'difference in {title} to what it is compared to')


def _draw_codes(axes, codes, ceilings, metric):
  """Scores over bytes per token, the joint reader as a line."""
  title = report.title_of(metric)
  for row in ceilings:
    mean = row['scores'][metric]['mean']
    axes.axhline(mean, color='black', lw=1, ls='--', label='joint reader')
  # To the left what takes fewest bytes, in the list as in the picture.
  codes = sorted(codes, key=lambda row: row['bytes_per_token'])
  for index, row in enumerate(codes):
    found, size = row['scores'][metric], row['bytes_per_token']
    # Codes of equal bytes stand beside each other.
    equal = [one for one in codes if one['bytes_per_token'] == size]
    size *= 2 ** (0.08 * (equal.index(row) - (len(equal) - 1) / 2))
    name = row['variant'].removeprefix(_CODE)
    colour, marker = f'C{index % 10}', 'osD^vPX*'[index % 8]
    axes.plot([size] * 2, [found['low'], found['high']], color=colour, lw=1.5)
    axes.plot(
      size,
      found['mean'],
      marker,
      color=colour,
      label=f'{name}: {row["bytes_per_token"]:g} B',
    )
    seeds = found['by_seed']
    axes.plot([size] * len(seeds), seeds, '_', color='black', markersize=8)
  axes.set_xscale('log', base=2)
  axes.xaxis.set_major_formatter(lambda value, _: f'{value:g}')
  axes.set_xlabel('bytes per token, bits and scale (left is better)')
  axes.set_ylabel(f'{title}, % (up is better; bars 95 %, - a seed)')
  axes.grid(alpha=0.3)
  axes.spines[['top', 'right']].set_visible(False)
  axes.legend(fontsize=8, loc='upper left', bbox_to_anchor=(1, 1))
