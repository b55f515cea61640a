"""Where metrics go: log, JSONL and TensorBoard; and progress with an ETA.

clu's writers import TensorFlow, so they are looked up only where it is
installed; the JSONL file and the log are written without it as well.
"""

from __future__ import annotations

from collections.abc import Mapping
import importlib.util
import json
import os
import pathlib
import sys
import time
from typing import Any

from absl import logging
import jax
import numpy as np


class JsonlWriter:
  """One JSON object per line: {'step': ..., name: value, ...}."""

  def __init__(self, path: str | os.PathLike):
    self._file = open(path, 'a', encoding='utf-8')

  def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    line = {'step': step, 'time': round(time.time(), 3), **scalars}
    self._file.write(json.dumps(line) + '\n')
    self._file.flush()

  def close(self) -> None:
    self._file.close()


class LogWriter:
  """One log line per call."""

  def __init__(self, name: str):
    self._name = name

  def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    values = ', '.join(f'{key}={value:.5g}' for key, value in scalars.items())
    logging.info('[%s %d] %s', self._name, step, values)

  def close(self) -> None:
    logging.flush()


def has_tensorboard() -> bool:
  """Whether clu's TensorBoard writer can be imported."""
  return all(
    importlib.util.find_spec(name) for name in ('tensorflow', 'tensorboard')
  )


class MetricWriters:
  """Writes scalars to several writers; a context manager."""

  def __init__(
    self, folder: str | os.PathLike, name: str, *, tensorboard: bool = True
  ):
    """Opens the writers of a stage folder.

    Args:
      folder: stage folder; metrics.jsonl and TensorBoard's files go there.
      name: what log lines start with.
      tensorboard: write TensorBoard files, where TensorFlow is installed.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    self._writers = []
    if jax.process_index() != 0:
      return  # The metrics are global; one process writes them.
    self._writers += [LogWriter(name), JsonlWriter(folder / 'metrics.jsonl')]
    if tensorboard and has_tensorboard():
      from clu import metric_writers  # Imports TensorFlow.

      self._writers.append(
        metric_writers.SummaryWriter(str(folder / 'tensorboard'))
      )
    elif tensorboard:
      logging.info(
        'No TensorBoard files: tensorflow and tensorboard are not installed.'
      )

  def __enter__(self) -> MetricWriters:
    return self

  def __exit__(self, *unused) -> None:
    for writer in self._writers:
      writer.close()

  def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    """Writes {name: value} everywhere."""
    for writer in self._writers:
      writer.write_scalars(step, scalars)


class Accumulator:
  """Merges the metrics of several steps on the host."""

  def __init__(self):
    self._merged: dict[str, Any] = {}
    self.count = 0

  def add(self, metrics: Mapping[str, Any]) -> dict[str, float]:
    """Adds fetched metrics.

    Args:
      metrics: clu Metrics with numpy leaves, or plain scalars.

    Returns:
      The values of this step alone.
    """
    self.count += 1
    values = {}
    for name, metric in metrics.items():
      if hasattr(metric, 'merge'):
        old = self._merged.get(name)
        self._merged[name] = metric if old is None else old.merge(metric)
        values[name] = float(metric.compute())
      else:
        values[name] = float(metric)
        self._merged[name] = values[name]  # The newest stands for all.
    return values

  def compute(self) -> dict[str, float]:
    """The merged values; forgets them."""
    values = {
      name: float(m.compute() if hasattr(m, 'compute') else m)
      for name, m in self._merged.items()
    }
    self._merged, self.count = {}, 0
    return values


def fetch(metrics: Mapping[str, Any]) -> dict[str, Any]:
  """Waits for device metrics and brings them to the host as numpy."""
  return jax.tree.map(np.asarray, dict(metrics))


def format_seconds(seconds: float) -> str:
  """`1:02:03`, or `2:03` under an hour."""
  minutes, second = divmod(int(round(max(0.0, seconds))), 60)
  hours, minute = divmod(minutes, 60)
  if hours:
    return f'{hours}:{minute:02d}:{second:02d}'
  return f'{minute}:{second:02d}'


class Progress:
  """How far the run is: a bar on a terminal, else a line every so often."""

  def __init__(
    self,
    name: str,
    total: int,
    start: int = 0,
    *,
    every_seconds: float = 30.0,
    stream: Any = None,
    clock: Any = time.monotonic,
  ):
    """Starts the clock.

    Args:
      name: what is in progress.
      total: steps in all.
      start: steps done before, by an earlier run.
      every_seconds: pause between lines where there is no terminal.
      stream: where to write; standard error by default.
      clock: seconds, for tests.
    """
    self._name, self._total, self._start = name, total, start
    self._every, self._clock = every_seconds, clock
    self._stream = sys.stderr if stream is None else stream
    # One process tells for all.
    self._quiet = stream is None and jax.process_index() != 0
    self._began = self._last = None
    self._bar = self._task = None
    if not self._quiet and getattr(self._stream, 'isatty', lambda: False)():
      from rich import console
      from rich import progress as rich_progress

      self._bar = rich_progress.Progress(
        rich_progress.TextColumn('{task.description}'),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TextColumn('{task.fields[note]}'),
        rich_progress.TimeRemainingColumn(),
        console=console.Console(file=self._stream),
      )
      self._task = self._bar.add_task(
        name, total=total, completed=start, note=''
      )
      self._bar.start()

  def update(self, step: int, loss: float) -> None:
    """Reports that `step` steps are done."""
    now = self._clock()
    if self._began is None:
      # The first step compiles: what it took says nothing about the rest.
      self._began, self._last, self._start = now, now, step
      return
    if self._quiet:
      return
    rate = (step - self._start) / max(now - self._began, 1e-9)
    if self._bar is not None:
      note = f'loss {loss:.4f}, {rate:.2f} steps/s'
      self._bar.update(self._task, completed=step, note=note)
    elif now - self._last >= self._every or step == self._total:
      self._last = now
      left = (self._total - step) / max(rate, 1e-9)
      self._stream.write(
        f'{self._name}: step {step}/{self._total} '
        f'({100 * step / self._total:.0f} %), loss {loss:.4f}, '
        f'{rate:.2f} steps/s, ETA {format_seconds(left)}\n'
      )
      self._stream.flush()

  def close(self) -> None:
    """Stops the bar."""
    if self._bar is not None:
      self._bar.stop()
