"""The table and the picture of an evaluation."""

from __future__ import annotations

import copy
import io

import pytest
import rich.console

from btr_jax.evaluation import report

RECORD = {
  'num_questions': 300,
  'split': 'test',
  'num_passages': 8,
  'batch_size': 1,
  'seeds': [0, 1, 2],
  'environment': {'cores': 2},
  'modes': [
    {
      'name': 'joint',
      'em': {'mean': 61.25, 'deviation': 0.5},
      'f1': {'mean': 70.0, 'deviation': 0.4},
      'bytes_per_token': 0.0,
      'speed': {
        'questions_per_second': {
          'median': 20.0,
          'smallest': 19.0,
          'largest': 20.5,
        },
        'speedup': {'median': 1.0, 'smallest': 1.0, 'largest': 1.0},
      },
    },
    {
      'name': 'binary-residual',
      'em': {'mean': 60.0, 'deviation': 0.75},
      'f1': {'mean': 69.0, 'deviation': 0.5},
      'bytes_per_token': 18.0,
      'em_kept': 97.96,
      'speed': {
        'questions_per_second': {
          'median': 62.0,
          'smallest': 60.0,
          'largest': 63.0,
        },
        'speedup': {'median': 3.1, 'smallest': 2.9, 'largest': 3.2},
      },
    },
  ],
}


def shown(record) -> str:
  console = rich.console.Console(file=io.StringIO(), width=120)
  console.print(report.table(record))
  return console.file.getvalue()


def test_table_shows_every_figure_with_its_spread():
  text = shown(RECORD)
  for part in (
    '300 questions of test',
    '61.2 ± 0.5',
    '98.0 %',
    '62.0 [60.0, 63.0]',
    '3.10 [2.90, 3.20]x',
    '18.0',
  ):
    assert part in text


def test_a_mode_that_was_not_timed_shows_a_dash():
  record = copy.deepcopy(RECORD)
  record['modes'][1]['speed'] = None
  line = next(x for x in shown(record).splitlines() if 'binary' in x)
  assert line.count(' - ') == 2


def test_plot_is_a_png_with_ink(tmp_path):
  import matplotlib.image

  path = tmp_path / 'figures' / 'plot.png'
  report.plot(RECORD, path)
  assert path.read_bytes().startswith(b'\x89PNG')
  pixels = matplotlib.image.imread(path)
  assert pixels.shape[0] > 500 and pixels.shape[1] > 1000
  assert pixels[..., :3].std() > 0.05
  assert [file.name for file in path.parent.iterdir()] == ['plot.png']


def test_plot_needs_a_timed_mode(tmp_path):
  record = copy.deepcopy(RECORD)
  for row in record['modes']:
    row['speed'] = None
  with pytest.raises(ValueError, match='No mode was timed'):
    report.plot(record, tmp_path / 'plot.png')
  assert not list(tmp_path.iterdir())
