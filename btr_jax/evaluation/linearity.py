"""Whether cost grows linearly with passages and with batch: straight lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

SWEPT = ('passages', 'batch')


def straight_lines(groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """Seconds per batch against passages and batch, by least squares.

  Args:
    groups: from `speed_report.group`.

  Returns:
    One line for each system and quantity with at least three values while all
    else stays: `name`, `swept`, the other sizes, `values`, `fixed_seconds`
    and `seconds_each` of seconds = fixed_seconds + seconds_each * value, and
    `worst_deviation`, the largest distance from the line as a share of it.
    Errors are weighted by the seconds, so that small values count as much.
  """
  points: dict[tuple[Any, ...], dict[int, float]] = {}
  for group in groups:
    workload = dict(group['workload'])
    for swept in SWEPT:
      rest = {k: v for k, v in workload.items() if k != swept}
      for row in group['rows']:
        key = (row['name'], swept, *sorted(rest.items()))
        seconds = row['seconds_per_question']['median'] * workload['batch']
        points.setdefault(key, {})[workload[swept]] = seconds
  return [
    _line(name, swept, dict(rest), found)
    for (name, swept, *rest), found in points.items()
    if len(found) > 2
  ]


def _line(name, swept, rest, found):
  values = np.array(sorted(found), float)
  seconds = np.array([found[int(value)] for value in values])
  matrix = np.stack([np.ones_like(values), values], axis=1)
  (fixed, each), *_ = np.linalg.lstsq(
    matrix / seconds[:, None], np.ones_like(seconds), rcond=None
  )
  line = fixed + each * values
  return {
    'name': name,
    'swept': swept,
    'rest': rest,
    'values': values.astype(int).tolist(),
    'fixed_seconds': float(fixed),
    'seconds_each': float(each),
    'worst_deviation': float(np.max(np.abs(seconds - line) / seconds)),
  }


def sentence(line: Mapping[str, Any]) -> str:
  """A line as people read it."""
  values = line['values']
  return (
    f'{line["name"]}, {line["swept"]} {values[0]} to {values[-1]}: '
    f'{1000 * line["fixed_seconds"]:.4g} ms + '
    f'{1000 * line["seconds_each"]:.4g} ms each, off by '
    f'{100 * line["worst_deviation"]:.0f} % at most'
  )
