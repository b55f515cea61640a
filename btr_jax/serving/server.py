"""A bounded queue in front of an engine, for questions from many threads.

Two threads work: one takes what waits, looks it up and gives it to the device;
the other waits for the device and hands the answers out. So the look-up of a
batch and the computation of the one before it overlap, and a batch is as large
as what came in meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import concurrent.futures
import dataclasses
import queue
import threading
import time
from typing import Any, Protocol, runtime_checkable

from btr_jax import config as config_lib
from btr_jax.data.records import Record
from btr_jax.serving import engine as engine_lib

# Batches that the device has been given and nobody has waited for yet.
_BATCHES_AHEAD = 1


@runtime_checkable
class Reads(Protocol):
  """What answers; `engine.Engine` is one."""

  config: config_lib.EngineConfig

  def warm_up(self) -> float: ...

  def start(self, asked: Sequence[Record | str]) -> Any: ...

  def finish(self, started: Any) -> Sequence[engine_lib.Answer]: ...


class QueueFullError(RuntimeError):
  """As many questions wait as may wait."""


@dataclasses.dataclass(frozen=True)
class _Asked:
  question: Record | str
  future: concurrent.futures.Future[engine_lib.Answer]


class Server:
  """Answers questions in the order in which they come, several at once.

  Use it as a context manager, or `close` it: both answer what still waits.
  """

  def __init__(self, engine: Reads, warm_up: bool = True):
    """Compiles every shape, unless told not to, and starts to work.

    Args:
      engine: its config says how many questions may wait, and how many are
        read together.
      warm_up: False compiles each shape when it first comes.
    """
    self._engine = engine
    self._config = engine.config
    if warm_up:
      engine.warm_up()
    self._waiting: queue.Queue[_Asked | None] = queue.Queue(
      self._config.max_queue
    )
    self._started: queue.Queue = queue.Queue(_BATCHES_AHEAD)
    self._closing = threading.Lock()
    self._closed = False
    self._threads = [
      threading.Thread(target=work, name=f'btr-{work.__name__}', daemon=True)
      for work in (self._start_batches, self._finish_batches)
    ]
    for thread in self._threads:
      thread.start()

  def __enter__(self) -> Server:
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def submit(
    self, question: Record | str, *, timeout: float | None = 0.0
  ) -> concurrent.futures.Future[engine_lib.Answer]:
    """Puts a question into the queue.

    Args:
      question: or a record that holds its passages.
      timeout: seconds to wait for a place in the queue; None waits for ever.

    Returns:
      A future of the answer. It raises what `Engine.read` would.

    Raises:
      QueueFullError: no place in the queue.
      RuntimeError: the server is closed.
    """
    asked = _Asked(question, concurrent.futures.Future())
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
      # Not waiting inside the lock: `close` must get it.
      with self._closing:
        if self._closed:
          raise RuntimeError(
            'This server is closed; it takes no more questions. Open another.'
          )
        try:
          self._waiting.put_nowait(asked)
          return asked.future
        except queue.Full:
          pass
      if deadline is not None and time.monotonic() >= deadline:
        raise QueueFullError(
          f'{self._config.max_queue} questions are waiting, which is the limit '
          '(engine.max_queue). Ask again later, give submit a timeout to wait '
          'for a place, or raise the limit.'
        )
      time.sleep(max(self._config.wait_seconds, 1e-4))

  def answer(
    self, questions: Iterable[Record | str]
  ) -> list[engine_lib.Answer]:
    """Answers in the order of the questions, waiting for places in the queue.

    Raises:
      ValueError: as `Engine.read`, for the first question that it is true of.
    """
    futures = [self.submit(question, timeout=None) for question in questions]
    return [future.result() for future in futures]

  def close(self) -> None:
    """Takes no more questions, answers those that wait, and ends."""
    with self._closing:
      closed, self._closed = self._closed, True
    if not closed:
      self._waiting.put(None)
    for thread in self._threads:
      thread.join()

  # --------------------------------------------------------------- the threads

  def _start_batches(self) -> None:
    more = True
    while more:
      batch, more = self._next_batch()
      # A future that was cancelled while it waited is left out.
      batch = [a for a in batch if a.future.set_running_or_notify_cancel()]
      if batch:
        self._start(batch)
    self._started.put(None)

  def _next_batch(self) -> tuple[list[_Asked], bool]:
    """What waits, at most max_batch; False at the end of the queue."""
    batch: list[_Asked] = []
    asked = self._waiting.get()
    deadline = time.monotonic() + self._config.wait_seconds
    while asked is not None:
      batch.append(asked)
      if len(batch) == self._config.max_batch:
        return batch, True
      try:
        asked = self._waiting.get(timeout=max(0, deadline - time.monotonic()))
      except queue.Empty:
        return batch, True
    return batch, False

  def _start(self, batch: list[_Asked]) -> None:
    try:
      started = self._engine.start([asked.question for asked in batch])
    except Exception as error:
      # Whatever it is, it belongs to whoever asked, and the others go on.
      if len(batch) == 1:
        batch[0].future.set_exception(error)
        return
      for asked in batch:
        self._start([asked])
      return
    self._started.put((batch, started))

  def _finish_batches(self) -> None:
    while (item := self._started.get()) is not None:
      batch, started = item
      try:
        answers = self._engine.finish(started)
      except Exception as error:
        for asked in batch:
          asked.future.set_exception(error)
        continue
      for asked, answer in zip(batch, answers, strict=True):
        asked.future.set_result(answer)
