"""The pictures of a report.

Only figures that were measured here: the paper's are of another machine and
stay in their columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import os
from typing import Any

from btr_jax.data import records
from btr_jax.evaluation import report
from btr_jax.evaluation.study import settings, tables

_DPI = 110
# Square points of a marker per byte of cache per token; the least one is what
# a system without a cache gets.
_AREA = 4.0
_LEAST_AREA = 30.0
_SCORE_COLOUR, _OTHER_COLOUR = '#000000', '#0072B2'


def draws(table: Mapping[str, Any]) -> bool:
  """Whether there is a picture for this table and enough rows for it."""
  return table['name'] in _DRAWINGS and len(_points(table)) >= 2


def _points(table: Mapping[str, Any]) -> list[Mapping[str, Any]]:
  """Rows that have run and have what the picture needs."""
  needed = 'bytes_per_token'
  if table['name'] != 'offline':
    needed = 'questions_per_second'
  found = [
    row
    for row in table['rows']
    if row['status'] == tables.RUN and needed in row['cells']
  ]
  if table['name'] == 'main':
    return found
  return [row for row in found if row['x'] is not None]


def draw(task: str, table: Mapping[str, Any], path: str | os.PathLike) -> None:
  """Draws a table that `draws` says yes to, as a PNG.

  Args:
    task: for the title.
    table: from `tables.Maker.make`.
    path: the file to write.
  """
  # Imported here: it takes a second, and not everybody draws.
  import matplotlib.figure

  figure = matplotlib.figure.Figure(figsize=(7.2, 4.2), layout='constrained')
  axes = figure.subplots()
  headline = next(
    column['title'] for column in table['columns'] if column['key'] == 'score'
  )
  axes.set_ylabel(f'{headline}, %')
  axes.grid(alpha=0.3)
  axes.spines[['top', 'right']].set_visible(False)
  _DRAWINGS[table['name']](axes, _points(table))
  figure.suptitle(f'{task}: {table["title"].lower()}', fontsize=10)
  with records.atomic_writer(path, binary=True) as file:
    figure.savefig(file, dpi=_DPI, format='png')


def _value(row: Mapping[str, Any], key: str) -> float:
  cell = row['cells'][key]
  if isinstance(cell, Mapping):
    return cell['value'] if 'value' in cell else cell['median']
  return cell


def _score_errors(rows: Sequence[Mapping[str, Any]]) -> list[list[float]]:
  cells = [row['cells']['score'] for row in rows]
  return [
    [cell['value'] - cell['low'] for cell in cells],
    [cell['high'] - cell['value'] for cell in cells],
  ]


def _store(row: Mapping[str, Any]) -> str:
  size = row['cells'].get('bytes_per_token')
  if size:
    return f'{size:.3g} B/token'
  index = row['cells'].get('store')
  return f'index of {index:.3g} MB' if index else 'no cache'


def _draw_systems(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
  """The paper's figure 3: score against speed, storage as area."""
  for number, row in enumerate(rows, start=1):
    size = row['cells'].get('bytes_per_token') or 0.0
    x, y = _value(row, 'questions_per_second'), _value(row, 'score')
    colour, marker = report.look_of(row['system'])
    axes.errorbar(
      x, y, yerr=_score_errors([row]), color=colour, alpha=0.4, capsize=2
    )
    axes.scatter(
      x,
      y,
      s=max(_LEAST_AREA, _AREA * size),
      marker='o' if size else marker,
      facecolors=colour if size else 'white',
      edgecolors=colour,
      alpha=0.6 if size else 1.0,
      label=f'{number}  {row["label"]}: {_store(row)}',
    )
    axes.annotate(
      str(number), (x, y), xytext=(4, 5), textcoords='offset points', fontsize=8
    )
  axes.set_xlabel(
    'questions per second (right is better); area: bytes of cache per token'
  )
  axes.set_xscale('log')
  # 20, 30, 40 in place of powers of ten, where the plot does not span them.
  speeds = [_value(row, 'questions_per_second') for row in rows]
  axes.xaxis.set_major_formatter('{x:g}')
  few = max(speeds) < 10 * min(speeds)
  axes.xaxis.set_minor_formatter('{x:g}' if few else '')
  axes.set_ylim(bottom=0)
  legend = axes.legend(
    loc='upper center', bbox_to_anchor=(0.5, -0.2), fontsize=6, ncols=2
  )
  for handle in legend.legend_handles:
    if hasattr(handle, 'set_sizes'):
      handle.set_sizes([_LEAST_AREA])


def _curve(
  axes: Any,
  rows: Sequence[Mapping[str, Any]],
  key: str,
  title: str,
  label: str,
) -> None:
  """Scores on the left axis, another value on the right one."""
  x = [row['x'] for row in rows]
  axes.errorbar(
    x,
    [_value(row, 'score') for row in rows],
    yerr=_score_errors(rows),
    color=_SCORE_COLOUR,
    marker='o',
    capsize=2,
  )
  axes.set_ylim(bottom=0)
  axes.set_xlabel(label)
  right = axes.twinx()
  right.plot(
    x,
    [_value(row, key) for row in rows],
    color=_OTHER_COLOUR,
    marker='s',
    linestyle='--',
  )
  right.set_ylim(bottom=0)
  right.set_ylabel(f'{title} (dashed)', color=_OTHER_COLOUR)


def _draw_offline(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
  _curve(
    axes,
    rows,
    'bytes_per_token',
    'bytes on disk per token',
    'share of the occurrences of a token that is merged offline',
  )


def _draw_runtime(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
  _curve(
    axes,
    rows,
    'questions_per_second',
    'questions per second',
    'share merged at run time, in passages and across them',
  )


def _draw_passages(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
  right = axes.twinx()
  for joint, colour in ((True, _SCORE_COLOUR), (False, _OTHER_COLOUR)):
    chosen = [r for r in rows if (r['system'] == settings.JOINT) == joint]
    if not chosen:
      continue
    x = [row['x'] for row in chosen]
    axes.errorbar(
      x,
      [_value(row, 'score') for row in chosen],
      yerr=_score_errors(chosen),
      color=colour,
      marker='o',
      capsize=2,
      label='joint' if joint else 'BTR',
    )
    right.plot(
      x,
      [_value(row, 'questions_per_second') for row in chosen],
      color=colour,
      marker='s',
      linestyle='--',
    )
  axes.set_ylim(bottom=0)
  right.set_yscale('log')
  right.set_ylabel('questions per second (dashed)')
  axes.set_xlabel('passages read per question')
  axes.legend(fontsize=8)


_DRAWINGS = {
  'main': _draw_systems,
  'passages': _draw_passages,
  'offline': _draw_offline,
  'runtime': _draw_runtime,
}
