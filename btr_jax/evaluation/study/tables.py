"""From the records of rows to the cells of tables, as JSON values.

A cell is None, a number, {'value', 'low', 'high'} (an interval), or {'median',
'smallest', 'largest'} (repeats). What it looks like is `page`'s business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from btr_jax.evaluation import report
from btr_jax.evaluation.study import intervals, paper, settings

RUN, NOT_RUN, FAILED = 'run', 'not run', 'failed'
Records = Mapping[settings.Setting, Mapping[str, Any]]
Cell = Any


def column(key: str, title: str, digits: int = 1, unit: str = '') -> dict:
  """A column of numbers; those of the paper have a key that says so."""
  return {'key': key, 'title': title, 'digits': digits, 'unit': unit}


def _questions(record: Mapping[str, Any]) -> np.ndarray:
  return np.asarray(record['by_question'], np.float64)


def _interval(value: float, ends: tuple[float, float] | None) -> Cell:
  low, high = ends or (None, None)
  return {'value': value, 'low': low, 'high': high}


def score(record: Mapping[str, Any]) -> Cell:
  """The headline with its interval, in per cent."""
  values = _questions(record)
  return _interval(float(values.mean()), intervals.of_mean(values))


def kept(record: Mapping[str, Any], baseline: Mapping[str, Any] | None) -> Cell:
  """The headline in per cent of the baseline's."""
  if baseline is None:
    return None
  values, below = _questions(record), _questions(baseline)
  if not below.mean():
    return None
  ends = intervals.of_ratio(values, below)
  return _interval(
    100 * float(values.mean() / below.mean()),
    ends and (100 * ends[0], 100 * ends[1]),
  )


def change(record: Mapping[str, Any], full: Mapping[str, Any] | None) -> Cell:
  """The headline less that of another row, of the same questions."""
  if full is None:
    return None
  values = _questions(record) - _questions(full)
  return _interval(float(values.mean()), intervals.of_mean(values))


def _speed(record: Mapping[str, Any], name: str) -> Cell:
  return record['speed'][name] if record['speed'] else None


def _second_score(record: Mapping[str, Any]) -> Cell:
  others = [name for name in record['metrics'] if name != record['headline']]
  if not others or others[0] not in record['scores']:
    return None
  return record['scores'][others[0]]['mean']


def _storage(record: Mapping[str, Any], part: str) -> Cell:
  storage = record.get('storage')
  return storage['parts'].get(part) if storage else None


def _megabytes(record: Mapping[str, Any], name: str) -> Cell:
  size = record.get(name)
  return size / 1e6 if size is not None else None


def _of_paper(line: settings.Line, task: str) -> dict[str, Cell]:
  found = paper.MAIN.get(line.paper, {}).get(paper.task_shown(task))
  if found is None:
    return {}
  return {
    'paper_score': found.score,
    'paper_kept': found.kept,
    'paper_speedup': found.speedup,
  }


class Maker:
  """Makes the tables of one task."""

  def __init__(
    self,
    task: str,
    headline: str,
    second: str | None,
    found: Records,
    reasons: Mapping[settings.Setting, tuple[str, str]],
  ):
    """Takes what has run.

    Args:
      task: name of the task.
      headline: the score that systems are compared by.
      second: another one that the main table has room for.
      found: records of rows by setting.
      reasons: status and reason of the settings that have none.
    """
    self._task = task
    self._headline = report.title_of(headline)
    self._second = second and report.title_of(second)
    self._found = found
    self._reasons = reasons

  def make(self, table: settings.Table, full: settings.Setting | None) -> dict:
    """A table with its cells.

    Args:
      table: what stands in it.
      full: BTR with everything, that ablations are told against.

    Returns:
      name, title, paper, columns, rows: each with label, status, reason, x,
      setting, cells by the key of their column.
    """
    columns, cells = getattr(self, f'_{table.name}')(full)
    # The paper has its other tables of one task alone.
    main = table.name == settings.TABLES[0]
    shown = paper.task_shown(self._task) if main else paper.NEAREST
    if shown != self._task:
      columns = [
        c | {'title': f'{c["title"]} ({shown})'}
        if c['key'].startswith('paper')
        else c
        for c in columns
      ]
    return {
      'name': table.name,
      'title': table.title,
      'paper': table.paper,
      'columns': columns,
      'rows': [self._row(line, cells) for line in table.lines],
    }

  def _row(self, line: settings.Line, cells: Callable) -> dict[str, Any]:
    record = self._found.get(line.setting)
    status, reason = NOT_RUN, line.reason
    if record is not None:
      status = RUN
    elif line.setting is not None:
      status, reason = self._reasons.get(line.setting, (NOT_RUN, 'not reached'))
    values = cells(line, record)
    return {
      'label': line.label,
      'status': status,
      'reason': reason,
      'x': line.x,
      'system': line.setting and line.setting.system,
      'row': line.setting and line.setting.slug,
      'cells': {k: v for k, v in values.items() if v is not None},
    }

  def _baseline(self, line: settings.Line) -> Mapping[str, Any] | None:
    other = line.setting.baseline
    return self._found.get(line.setting if other is None else other)

  def _score(self) -> dict:
    return column('score', self._headline)

  def _main(self, full):
    del full
    columns = [
      self._score(),
      *([column('second', self._second)] if self._second else []),
      column('kept', 'of joint', unit=' %'),
      column('questions_per_second', 'questions/s'),
      column('speedup', 'speed-up', 2, 'x'),
      column('bytes_per_token', 'bytes/token'),
      column('store', 'store, MB'),
      column('weights', 'weights, MB', 2),
      column('paper_score', f'paper: {self._headline}'),
      column('paper_kept', 'paper: of Atlas', 0, ' %'),
      column('paper_speedup', 'paper: speed-up', 1, 'x'),
    ]

    def cells(line, record):
      values = _of_paper(line, self._task)
      if record is None:
        return values
      return values | {
        'score': score(record),
        'second': _second_score(record),
        'kept': kept(record, self._baseline(line)),
        'questions_per_second': _speed(record, 'questions_per_second'),
        'speedup': _speed(record, 'speedup'),
        'bytes_per_token': record['bytes_per_token'],
        'store': _megabytes(record, 'store_bytes'),
        'weights': _megabytes(record, 'model_bytes'),
      }

    return columns, cells

  def _ablations(self, full):
    columns = [
      self._score(),
      column('change', 'less full'),
      column('questions_per_second', 'questions/s'),
      column('speedup', 'over joint', 2, 'x'),
      column('bytes_per_token', 'bytes/token'),
      column('paper_score', 'paper: EM'),
      column('paper_change', 'paper: less full'),
      column('paper_qps', 'paper: questions/s'),
      column('paper_gb', 'paper: GB', 0),
    ]

    def cells(line, record):
      values = {}
      if line.paper in paper.ABLATIONS:
        found, speed, size = paper.ABLATIONS[line.paper]
        values = {
          'paper_score': found,
          'paper_change': round(found - paper.ABLATIONS['full'][0], 1),
          'paper_qps': speed,
          'paper_gb': size,
        }
      if record is None:
        return values
      return values | {
        'score': score(record),
        'change': change(record, self._found.get(full)),
        'questions_per_second': _speed(record, 'questions_per_second'),
        'speedup': _speed(record, 'speedup'),
        'bytes_per_token': record['bytes_per_token'],
      }

    return columns, cells

  def _passages(self, full):
    del full
    columns = [
      self._score(),
      column('kept', 'of joint', unit=' %'),
      column('questions_per_second', 'questions/s'),
      column('speedup', 'speed-up', 2, 'x'),
      column('paper_score', 'paper: EM'),
      column('paper_speedup', 'paper: speed-up', 1, 'x'),
    ]

    def cells(line, record):
      values = {}
      if line.paper in paper.PASSAGES:
        joint, btr, speedup = paper.PASSAGES[line.paper]
        of_joint = line.setting.system == settings.JOINT
        values = {
          'paper_score': joint if of_joint else btr,
          'paper_speedup': 1.0 if of_joint else speedup,
        }
      if record is None:
        return values
      return values | {
        'score': score(record),
        'kept': kept(record, self._baseline(line)),
        'questions_per_second': _speed(record, 'questions_per_second'),
        'speedup': _speed(record, 'speedup'),
      }

    return columns, cells

  def _offline(self, full):
    columns = [
      self._score(),
      column('change', 'less full'),
      column('bytes_per_token', 'bytes/token', 2),
      column('bits', 'bits alone', 2),
      column('paper_score', 'paper: EM'),
      column('paper_gb', 'paper: GB', 0),
    ]

    def cells(line, record):
      values = {}
      if line.paper in paper.OFFLINE:
        size, found = paper.OFFLINE[line.paper]
        values = {'paper_score': found, 'paper_gb': size}
      if record is None:
        return values
      return values | {
        'score': score(record),
        'change': change(record, self._found.get(full)),
        'bytes_per_token': record['bytes_per_token'],
        'bits': _storage(record, 'bits'),
      }

    return columns, cells

  def _runtime(self, full):
    columns = [
      self._score(),
      column('change', 'less full'),
      column('questions_per_second', 'questions/s'),
      column('speedup', 'over joint', 2, 'x'),
      column('paper_score', 'paper: EM'),
      column('paper_qps', 'paper: questions/s'),
    ]

    def cells(line, record):
      values = {}
      if line.paper in paper.RUNTIME:
        found, speed = paper.RUNTIME[line.paper]
        values = {'paper_score': found, 'paper_qps': speed}
      if record is None:
        return values
      return values | {
        'score': score(record),
        'change': change(record, self._found.get(full)),
        'questions_per_second': _speed(record, 'questions_per_second'),
        'speedup': _speed(record, 'speedup'),
      }

    return columns, cells
