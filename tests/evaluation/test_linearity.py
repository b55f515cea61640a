"""Straight lines through a benchmark's rows."""

import pytest

from btr_jax.evaluation import linearity


def group(passages, batch, **seconds):
  return {
    'workload': {'passages': passages, 'batch': batch, 'padded_length': 32},
    'rows': [
      {'name': name, 'seconds_per_question': {'median': value / batch}}
      for name, value in seconds.items()
    ],
  }


def test_a_line_is_found_and_a_curve_told():
  groups = [
    group(n, 2, joint=0.5 + 0.25 * n, odd=0.1 * n**2) for n in (5, 10, 40)
  ]
  lines = {line['name']: line for line in linearity.straight_lines(groups)}
  joint = lines['joint']
  assert joint['swept'] == 'passages' and joint['values'] == [5, 10, 40]
  assert joint['rest'] == {'batch': 2, 'padded_length': 32}
  assert joint['fixed_seconds'] == pytest.approx(0.5)
  assert joint['seconds_each'] == pytest.approx(0.25)
  assert joint['worst_deviation'] < 1e-9
  assert lines['odd']['worst_deviation'] > 0.2
  assert linearity.sentence(joint) == (
    'joint, passages 5 to 40: 500 ms + 250 ms each, off by 0 % at most'
  )


def test_two_values_make_no_line_and_batch_counts_whole_batches():
  groups = [group(8, n, joint=0.1 + 0.01 * n) for n in (1, 4, 16)]
  groups.append(group(16, 1, joint=1.0))
  (line,) = linearity.straight_lines(groups)
  assert line['swept'] == 'batch'
  assert line['seconds_each'] == pytest.approx(0.01)
