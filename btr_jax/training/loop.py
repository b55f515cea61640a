"""The training loop: batches in, updates, metrics, evaluation, checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import math
import queue
import signal
import threading
import time
from typing import Any

from absl import logging
import jax
from jax.experimental import multihost_utils
import numpy as np

from btr_jax.training import checkpoints as checkpoints_lib
from btr_jax.training import metrics as metrics_lib
from btr_jax.training import partitioning
from btr_jax.training import state as state_lib


class TrainingDivergedError(FloatingPointError):
  """The loss is not a finite number."""


class StopSignal:
  """Set by SIGTERM; the loop then saves and returns. A context manager.

  Among several processes JAX's runtime listens for the signal: whichever
  process gets it, all agree on the step after which they stop.
  """

  def __init__(self):
    self._event = threading.Event()
    self._previous = None

  def __enter__(self) -> StopSignal:
    # Only the main thread may set handlers; elsewhere `set` still works.
    # JAX's handler must stay where its runtime is in use.
    if (
      threading.current_thread() is threading.main_thread()
      and not jax.distributed.is_initialized()
    ):
      self._previous = signal.signal(signal.SIGTERM, self._handle)
    return self

  def __exit__(self, *unused) -> None:
    if self._previous is not None:
      signal.signal(signal.SIGTERM, self._previous)
      self._previous = None

  def _handle(self, signum, frame) -> None:
    del signum, frame
    self.set()

  def set(self) -> None:
    """Asks the loop to stop after the step under way."""
    self._event.set()

  def is_set(self) -> bool:
    return self._event.is_set()

  def reached(self, step: int) -> bool:
    """Whether to stop after `step`; all processes must ask at every step."""
    if jax.distributed.is_initialized():
      if multihost_utils.reached_preemption_sync_point(step):
        self.set()
    return self.is_set()


_END = object()


class Prefetcher:
  """Runs an iterator in a thread, a few items ahead; a context manager.

  Tokenizing and copying the next batch then overlap with the step.
  """

  def __init__(
    self,
    items: Iterator[Any],
    transform: Callable[[Any], Any] = lambda item: item,
    size: int = 2,
  ):
    """Starts the thread.

    Args:
      items: what to run ahead of.
      transform: applied in the thread, e.g. the copy to the devices.
      size: items ahead.
    """
    self._queue: queue.Queue = queue.Queue(maxsize=size)
    self._closed = threading.Event()
    self._thread = threading.Thread(
      target=self._run, args=(items, transform), daemon=True
    )
    self._thread.start()

  def _put(self, item) -> None:
    while not self._closed.is_set():
      with contextlib.suppress(queue.Full):
        self._queue.put(item, timeout=0.1)
        return

  def _run(self, items, transform) -> None:
    try:
      for item in items:
        self._put((transform(item), None))
        if self._closed.is_set():
          return
      self._put((_END, None))
    except BaseException as error:  # It is raised again in the main thread.
      self._put((_END, error))

  def __iter__(self) -> Prefetcher:
    return self

  def __next__(self) -> Any:
    item, error = self._queue.get()
    if item is _END:
      self._queue.put((_END, error))  # So that the next call ends as well.
      if error is not None:
        raise error
      raise StopIteration
    return item

  def __enter__(self) -> Prefetcher:
    return self

  def __exit__(self, *unused) -> None:
    self._closed.set()
    with contextlib.suppress(queue.Empty):
      while True:
        self._queue.get_nowait()
    self._thread.join(timeout=10)


@dataclasses.dataclass(frozen=True)
class LoopConfig:
  """When the loop does what.

  Attributes:
    total_steps: updates in all, counted from the stage's first.
    log_period: steps between written metrics.
    eval_period: steps between evaluations; 0 evaluates at the end only.
    save_period: steps between checkpoints; 0 saves at the end only.
    progress_seconds: pause between progress lines without a terminal.
  """

  total_steps: int
  log_period: int = 50
  eval_period: int = 1000
  save_period: int = 1000
  progress_seconds: float = 30.0

  def __post_init__(self):
    for name in ('total_steps', 'log_period'):
      if getattr(self, name) < 1:
        raise ValueError(f'{name} is {getattr(self, name)}; expected >= 1.')
    for name in ('eval_period', 'save_period'):
      if getattr(self, name) < 0:
        raise ValueError(
          f'{name} is {getattr(self, name)}; expected 0 (at the end only) or '
          'more.'
        )


def _due(step: int, period: int, total: int) -> bool:
  return step == total or bool(period and step % period == 0)


def run_loop(
  state: state_lib.TrainState,
  step_fn: Callable[[state_lib.TrainState, Any], tuple[Any, Mapping[str, Any]]],
  batches: Iterator[Mapping[str, jax.Array]],
  config: LoopConfig,
  *,
  name: str,
  batch_size: int,
  checkpoints: checkpoints_lib.Checkpoints,
  writers: metrics_lib.MetricWriters,
  stop: StopSignal,
  evaluate: Callable[[Any], Mapping[str, float]] | None = None,
) -> tuple[state_lib.TrainState, bool]:
  """Trains from `state.step` to `config.total_steps`.

  The metrics of step n are fetched while step n+1 runs, so the host never
  waits for the device but where a checkpoint or an evaluation is due.

  Args:
    state: where to start; donated.
    step_fn: of `step.make_train_step`.
    batches: global batches from `state.step` on.
    config: when to do what.
    name: of the stage, for messages.
    batch_size: global batch, for examples per second.
    checkpoints: where to save.
    writers: where metrics go.
    stop: ends the loop early, after a save.
    evaluate: parameters to metrics.

  Returns:
    (state, whether it reached total_steps).

  Raises:
    TrainingDivergedError: the loss is not finite; nothing of it is saved.
    ValueError: the batches end too early.
  """
  step = int(state.step)
  last_saved = checkpoints.latest_step()
  accumulated = metrics_lib.Accumulator()
  progress = metrics_lib.Progress(
    name, config.total_steps, step, every_seconds=config.progress_seconds
  )
  log_began, log_step = None, step
  pending: tuple[int, Any] | None = None

  def settle() -> None:
    """Fetches the metrics of the last dispatched step."""
    nonlocal pending, log_began, log_step
    if pending is None:
      return
    (done, metrics), pending = pending, None
    values = accumulated.add(metrics_lib.fetch(metrics))
    loss = values['loss']
    if not math.isfinite(loss):
      kept = (
        f'The last good checkpoint is {checkpoints.folder}/'
        f'{checkpoints_lib.PREFIX}_{last_saved}'
        if last_saved is not None
        else 'No checkpoint was saved before it'
      )
      raise TrainingDivergedError(
        f'{name}: the loss of step {done} is {loss}; expected a finite '
        f'number (grad_norm {values.get("grad_norm", float("nan")):.4g}). '
        f'{kept}. Try a smaller LEARNING_RATE, more WARMUP_STEPS, or dtype '
        'float32.'
      )
    progress.update(done, loss)
    now = time.monotonic()
    if _due(done, config.log_period, config.total_steps):
      scalars = {f'train/{k}': v for k, v in accumulated.compute().items()}
      if log_began is not None and done > log_step:
        rate = (done - log_step) / max(now - log_began, 1e-9)
        scalars['perf/steps_per_second'] = rate
        scalars['perf/examples_per_second'] = rate * batch_size
      writers.write_scalars(done, scalars)
      log_began, log_step = now, done
    elif log_began is None:  # The first step compiles; time begins after it.
      log_began, log_step = now, done

  try:
    while step < config.total_steps and not stop.reached(step):
      try:
        batch = next(batches)
      except StopIteration:
        raise ValueError(
          f'{name}: the training batches ended at step {step} of '
          f'{config.total_steps}; expected an iterator without end.'
        ) from None
      state, metrics = step_fn(state, batch)
      step += 1
      settle()
      pending = (step, metrics)
      if _due(step, config.save_period, config.total_steps):
        settle()  # Never save what a bad loss has spoilt.
        last_saved = checkpoints.save(state)
      if evaluate and _due(step, config.eval_period, config.total_steps):
        settle()
        began = time.monotonic()
        scalars = {f'eval/{k}': v for k, v in evaluate(state.params).items()}
        scalars['perf/eval_seconds'] = time.monotonic() - began
        writers.write_scalars(step, scalars)
        log_began = time.monotonic()  # Evaluation is no training time.
        log_step = step
    settle()
    if stop.is_set() and step < config.total_steps:
      checkpoints.save(state, wait=True)
      logging.warning(
        '%s: stopped by SIGTERM at step %d of %d; saved %s/%s_%d. The same '
        'command goes on from there.',
        name,
        step,
        config.total_steps,
        checkpoints.folder,
        checkpoints_lib.PREFIX,
        step,
      )
  finally:
    progress.close()
  return state, step >= config.total_steps


def evaluate_batches(
  batches: Iterator[Mapping[str, np.ndarray]],
  params: Any,
  *,
  put: Callable[[Mapping[str, np.ndarray]], Mapping[str, jax.Array]],
  eval_fn: Callable[[Any, Any], Mapping[str, Any]],
  predict_fn: Callable[[Any, Any], jax.Array],
  score: Callable[[np.ndarray, np.ndarray, np.ndarray], Mapping[str, float]],
  num_batches: int | None = None,
) -> dict[str, float]:
  """Loss and answer scores over some batches.

  Args:
    batches: numpy batches; examples without target tokens are padding.
    params: parameters.
    put: numpy batch to global arrays.
    eval_fn: of `step.make_eval_step`.
    predict_fn: of `step.make_predict_step`.
    score: (predicted, target, question tokens), int32 [examples, length], to
      named values, e.g. exact match.
    num_batches: how many batches to read; None for all.

  Returns:
    The metrics by name.

  Raises:
    ValueError: there was no batch.
  """
  accumulated = metrics_lib.Accumulator()
  predicted, targets, questions = [], [], []
  for index, batch in enumerate(batches):
    if num_batches is not None and index >= num_batches:
      break
    placed = put(batch)
    accumulated.add(metrics_lib.fetch(eval_fn(params, placed)))
    answers = np.asarray(predict_fn(params, placed))
    weights = partitioning.to_host(placed['decoder_loss_weights'])
    real = weights.sum(axis=-1) > 0
    predicted.append(answers[real])
    targets.append(partitioning.to_host(placed['decoder_target_tokens'])[real])
    questions.append(partitioning.to_host(placed['question_tokens'])[real])
  if not predicted:
    raise ValueError('There is no batch to evaluate; expected at least one.')
  values = accumulated.compute()
  values.update(score(*map(np.concatenate, (predicted, targets, questions))))
  return values
