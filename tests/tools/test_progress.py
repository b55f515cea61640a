"""Progress where there is no terminal: a line at times, and one at the end."""

from __future__ import annotations

import pytest

from btr_jax.tools import progress as progress_lib


class Clock:
  now = 0.0

  def __call__(self):
    return self.now


def test_lines_come_every_ten_seconds_and_at_the_end(capsys):
  clock = Clock()
  with progress_lib.Progress('build', clock=clock) as progress:
    for done in range(1, 6):
      clock.now += 6.0
      progress(done, 5)
    progress(5, 5)
  lines = capsys.readouterr().err.splitlines()
  # At 12 s: 2 of 5 took 12 s, so the other 3 take 18 s.
  assert lines == [
    'build: 2 of 5, 18 s left',
    'build: 4 of 5, 6 s left',
    'build: 5 of 5, took 30 s',
  ]


def test_a_short_task_is_one_line(capsys):
  with progress_lib.Progress('build', clock=Clock()) as progress:
    progress(1, 2)
    progress(2, 2)
  assert capsys.readouterr().err == 'build: 2 of 2, took 0 s\n'


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
  import sys

  monkeypatch.setattr(sys.stderr, 'isatty', lambda: True, raising=False)
  with progress_lib.Progress('build') as progress:
    progress(1, 2)
    progress(2, 2)
  assert '2/2' in capsys.readouterr().err


@pytest.mark.parametrize(
  ('seconds', 'text'),
  [
    (0.4, '0 s'),
    (59.6, '1 min 00 s'),
    (90.0, '1 min 30 s'),
    (7260.0, '2 h 01 min'),
  ],
)
def test_duration(seconds, text):
  assert progress_lib.duration(seconds) == text
