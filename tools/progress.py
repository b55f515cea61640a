"""How far a long task is: a bar on a terminal, elsewhere a line at times."""

from __future__ import annotations

from collections.abc import Callable
import sys
import time
from types import TracebackType

import rich.console
import rich.progress


def duration(seconds: float) -> str:
  """90 -> '1 min 30 s'."""
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours} h {minutes:02d} min'
  return f'{minutes} min {rest:02d} s' if minutes else f'{rest} s'


class Progress:
  """Shows `done` of `total` with the time left, on standard error.

  Use it as a context and call it: `with Progress('build') as p: p(3, 10)`.
  """

  def __init__(
    self,
    task: str,
    *,
    every: float = 10.0,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Nothing is shown before the first call.

    Args:
      task: a few words.
      every: seconds between lines where there is no terminal.
      clock: replaced in tests.
    """
    self._task = task
    self._every = every
    self._clock = clock
    self._bar: rich.progress.Progress | None = None
    self._finished = False

  def __enter__(self) -> Progress:
    self._start = self._told = self._clock()
    if sys.stderr.isatty():
      self._bar = rich.progress.Progress(
        rich.progress.TextColumn('{task.description}'),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TimeRemainingColumn(),
        console=rich.console.Console(stderr=True),
      )
      self._bar.start()
      self._bar_task = self._bar.add_task(self._task, total=None)
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    if self._bar is not None:
      self._bar.stop()

  def __call__(self, done: int, total: int) -> None:
    if self._bar is not None:
      self._bar.update(self._bar_task, completed=done, total=total)
      return
    now = self._clock()
    last = done >= total and not self._finished
    if not last and now - self._told < self._every:
      return
    self._told = now
    self._finished = self._finished or last
    spent = now - self._start
    if last:
      text = f'{self._task}: {total} of {total}, took {duration(spent)}'
    else:
      left = spent * (total - done) / max(done, 1)
      text = f'{self._task}: {done} of {total}, {duration(left)} left'
    print(text, file=sys.stderr, flush=True)
