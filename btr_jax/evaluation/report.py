"""One evaluation as a table and as a picture.

The record that both show is the JSON that `btr evaluate` writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import os
from typing import Any

import rich.table

from btr_jax.data import records

# Okabe and Ito's colours, told apart with any colour vision; every system has
# a marker of its own as well, for print in grey.
_LOOKS = {
  'joint': ('#000000', 'o'),
  'joint-absorbed': ('#E69F00', 'p'),
  'decomposed': ('#0072B2', 's'),
  'decomposed-cached': ('#56B4E9', 'P'),
  'binary-calibrated': ('#D55E00', '^'),
  'binary-residual': ('#009E73', 'D'),
  'binary-sign': ('#CC79A7', 'v'),
  'joint-int8': ('#7F7F7F', '<'),
  'joint-int4': ('#4D4D4D', '>'),
  'phrases': ('#CC79A7', '*'),
  'language-model': ('#882255', 'h'),
  'span-joint': ('#AA7744', 'd'),
  'span-binary': ('#117733', '8'),
}


# What a record shows that does not say (`btr evaluate` without a task).
_SHOWN = ('em', 'f1')
_TITLES = {'em': 'EM', 'f1': 'F1'}


def _shown(record: Mapping[str, Any]) -> Sequence[str]:
  """Values that stand in the table; the first is what systems compare by."""
  return record.get('metrics') or _SHOWN


def title_of(name: str) -> str:
  """A value's name as people read it: accuracy_stem -> stem."""
  short = name.removeprefix('accuracy_')
  return _TITLES.get(short, short.replace('_', ' '))


def look_of(name: str) -> tuple[str, str]:
  """A system's colour and marker."""
  return _LOOKS.get(name, ('#999999', 'X'))


def _mean_and_deviation(values: Mapping[str, Any] | None) -> str:
  if not values:
    return '-'
  return f'{values["mean"]:.1f} ± {values["deviation"]:.1f}'


def _with_spread(values: Mapping[str, Any], digits: int) -> str:
  return (
    f'{values["median"]:.{digits}f} '
    f'[{values["smallest"]:.{digits}f}, {values["largest"]:.{digits}f}]'
  )


def table(record: Mapping[str, Any]) -> rich.table.Table:
  """The evaluation as people read it; a mode that was not timed shows a dash.

  Args:
    record: from `btr evaluate`: `metrics`, names of values, `em` and `f1` by
      default; `modes`, a list of rows with `name`, these values (mean and
      spread over seeds), `em_kept` (of the joint reader's first value) or
      None, `speed` or None, `bytes_per_token`.

  Returns:
    A table for rich's console.
  """
  result = rich.table.Table(
    title=(
      f'{record["num_questions"]} questions of {record["split"]}, '
      f'{record["num_passages"]} passages, batch {record["batch_size"]}'
    ),
    caption=(
      f'{", ".join(map(title_of, _shown(record)))}: mean ± standard deviation '
      f'of {len(record["seeds"])} samples; '
      'questions/s without retrieval: median [least, most]'
    ),
  )
  headline, *others = _shown(record)
  result.add_column('mode')
  for title in (
    title_of(headline),
    'kept',
    *map(title_of, others),
    'questions/s',
    'speed-up',
    'bytes/token',
  ):
    result.add_column(title, justify='right')
  for row in record['modes']:
    speed, kept = row.get('speed'), row.get('em_kept')
    result.add_row(
      row['name'],
      _mean_and_deviation(row[headline]),
      f'{kept:.1f} %' if kept is not None else '-',
      *(_mean_and_deviation(row.get(name)) for name in others),
      _with_spread(speed['questions_per_second'], 1) if speed else '-',
      _with_spread(speed['speedup'], 2) + 'x' if speed else '-',
      f'{row["bytes_per_token"]:.1f}',
    )
  return result


def _bytes_label(row: Mapping[str, Any]) -> str:
  if not row['bytes_per_token']:
    return 'no cache'
  return f'{row["bytes_per_token"]:.3g} B/token'


def plot(record: Mapping[str, Any], path: str | os.PathLike) -> None:
  """Draws scores against questions per second, bytes beside, as a PNG.

  Args:
    record: as for `table`; every mode must have been timed.
    path: the file to write.

  Raises:
    ValueError: no mode was timed.
  """
  # Imported here: it takes a second, and not everybody draws.
  import matplotlib.figure

  rows = [row for row in record['modes'] if row.get('speed')]
  if not rows:
    raise ValueError('No mode was timed; run with at least one repeat.')
  figure = matplotlib.figure.Figure(figsize=(9.5, 4.2), layout='constrained')
  left, right = figure.subplots(1, 2, width_ratios=(3, 2))
  _draw_points(left, rows, _shown(record)[0])
  _draw_bytes(right, rows)
  figure.suptitle(
    f'{record["num_questions"]} questions of {record["split"]}, '
    f'{record["num_passages"]} passages, batch {record["batch_size"]}, '
    f'{record["environment"]["cores"]} cores',
    fontsize=10,
  )
  with records.atomic_writer(path, binary=True) as file:
    figure.savefig(file, dpi=150, format='png')


def _draw_points(
  axes: Any, rows: Sequence[Mapping[str, Any]], headline: str
) -> None:
  for row in rows:
    speed = row['speed']['questions_per_second']
    colour, marker = look_of(row['name'])
    axes.errorbar(
      speed['median'],
      row[headline]['mean'],
      xerr=[
        [speed['median'] - speed['smallest']],
        [speed['largest'] - speed['median']],
      ],
      yerr=row[headline]['deviation'],
      color=colour,
      marker=marker,
      markersize=8,
      capsize=2,
      linestyle='none',
      label=f'{row["name"]} ({_bytes_label(row)})',
    )
  axes.set_xlim(left=0)
  axes.set_ylim(0, 100)
  axes.set_xlabel('questions per second (right is better)')
  name = 'exact match' if headline == 'em' else title_of(headline)
  axes.set_ylabel(f'{name}, % (up is better)')
  axes.grid(alpha=0.3)
  axes.legend(loc='best', fontsize=8)
  axes.spines[['top', 'right']].set_visible(False)


def _draw_bytes(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
  names = [row['name'] for row in rows]
  values = [row['bytes_per_token'] for row in rows]
  colours = [look_of(name)[0] for name in names]
  bars = axes.barh(names, values, color=colours)
  axes.bar_label(
    bars,
    labels=[_bytes_label(row) for row in rows],
    padding=3,
    fontsize=8,
  )
  axes.invert_yaxis()
  axes.set_xlim(right=max([*values, 1]) * 1.45)
  axes.set_xlabel('bytes of cache per token (left is better)')
  axes.spines[['top', 'right']].set_visible(False)
