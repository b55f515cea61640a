"""Readers against each other on one workload: time, cost, the same tokens.

All systems get the same questions and the same passages, and take turns, so
that whatever else the machine does hits them alike. A batch is looked up and
moved to the device, and then read by one fused program; the two are timed
apart. Compilation comes before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import statistics
import time
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from btr_jax import config as config_lib
from btr_jax.evaluation import benchmark_inputs as inputs
from btr_jax.evaluation import cost
from btr_jax.models import model as model_lib
from btr_jax.serving import programs as programs_lib

# Modes of the benchmark: `float` is DeFormer, the decomposed reader with its
# states in a bfloat16 cache on disk.
MODES = ('joint', 'decomposed', 'float', 'binary')


@dataclasses.dataclass(frozen=True)
class System:
  """One way of answering.

  Attributes:
    mode: one of `MODES`.
    cross_attention: one of `config.CROSS_ATTENTIONS`.
    merging: which tokens are merged.
    int8_products: whether the encoder multiplies in eight bits.
  """

  mode: str
  cross_attention: str
  merging: config_lib.MergingConfig = config_lib.NO_MERGING
  int8_products: bool = False

  @property
  def name(self) -> str:
    products = ' int8' if self.int8_products else ''
    return f'{self.mode} {self.cross_attention}{self.merging.suffix}{products}'


@runtime_checkable
class Runner(Protocol):
  """Something that can be timed."""

  compile_seconds: float

  def look_up(self, questions: np.ndarray, numbers: np.ndarray) -> Any: ...

  def read(self, batch: Any) -> np.ndarray: ...


class JaxRunner:
  """One of our systems on one workload, compiled."""

  def __init__(
    self,
    system: System,
    corpus: inputs.Corpus,
    workload: inputs.Workload,
    step_costs: dict[Any, Mapping[str, float]] | None = None,
  ):
    """Compiles the system for the workload.

    Args:
      system: what is measured.
      corpus: what it reads.
      workload: in which shapes.
      step_costs: filled with what a step of the decoder costs by its shapes;
        given to several runners of one corpus, none compiles it again.
    """
    self.system = system
    self._step_costs = {} if step_costs is None else step_costs
    self._corpus = corpus
    self._workload = workload
    reader = corpus.reader_of(system.mode)
    self._cached = system.mode in ('float', 'binary')
    limits = config_lib.InputLimits(
      workload.question_length,
      workload.padded_length,
      workload.answer_length,
      workload.passages,
    )
    mode = 'binary' if self._cached else system.mode
    inference = config_lib.InferenceConfig(
      system.cross_attention,
      system.merging,
      int8_products=system.int8_products,
    )
    self._programs = programs_lib.Programs(
      model_lib.BtrModel(reader.config, limits, stage=3, mode=mode),
      reader.params,
      mode,
      inference,
    )
    if self._cached:
      corpus.store(system.mode)
    example = self.look_up(
      np.ones((workload.batch, workload.question_length), np.int32),
      np.zeros((workload.batch, workload.passages), np.int64),
    )
    self._shapes = jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), example
    )
    start = time.perf_counter()
    lowered = self._programs.lower('answer', self._shapes)
    self.compiled = lowered.compile()
    self.compile_seconds = time.perf_counter() - start
    self._lowered = lowered

  def look_up(self, questions, numbers):
    length = self._workload.padded_length
    if self._cached:
      rows = self._corpus.store(self.system.mode).lookup(numbers, length)
      passages = {
        'passage_tokens': rows.token_ids,
        'passage_bits': rows.bits,
        'passage_scale': rows.scale,
      }
    else:
      passages = {
        'passage_tokens': inputs.padded(self._corpus.tokens, numbers, length)
      }
    batch = {'question_tokens': questions, **passages}
    return jax.block_until_ready(jax.device_put(batch))

  def read(self, batch):
    return np.asarray(self.compiled(self._programs.params, batch))

  def cost(self) -> dict[str, Any]:
    """Operations, bytes and memory by the compiler's count; all but the memory
    as if the encoder read all passages together."""
    programs, workload = self._programs, self._workload
    params = programs.params
    memory = jax.eval_shape(programs.encode, params, self._shapes)

    structures = []

    # Leaves alone, because containers are checked for arrays in them.
    def start(params, memory):
      leaves, structure = jax.tree.flatten(programs.start(params, memory))
      structures.append(structure)
      return leaves

    def step(params, leaves):
      cache, constants = jax.tree.unflatten(structures[0], leaves)
      tokens = jnp.zeros((workload.batch, 1), jnp.int32)
      return programs.model.module.apply(
        programs.model.variables(params),
        cache,
        constants,
        tokens,
        jnp.int32(0),
        method='decode_step',
      )

    leaves = jax.eval_shape(start, params, memory)
    key = (programs.model.config.dtype, structures[0], *map(str, leaves))
    if key not in self._step_costs:
      one = jax.jit(step).lower(params, leaves)
      # Operations before optimization: backends hide products in calls that
      # are not counted. Bytes after it: fusion is what saves them.
      self._step_costs[key] = {
        'flops': one_cost(one)['flops'],
        'bytes accessed': one.compile().cost_analysis()['bytes accessed'],
      }
    # The compiler counts a loop over groups of passages once.
    lowered = programs.without_groups().lower('answer', self._shapes)
    compiled = self.compiled
    if lowered.as_text() != self._lowered.as_text():
      compiled = lowered.compile()
    whole = {
      'flops': one_cost(lowered)['flops'],
      'bytes accessed': compiled.cost_analysis()['bytes accessed'],
    }
    flops, transferred = cost.add_steps(
      whole, self._step_costs[key], workload.answer_length
    )
    config = programs.model.config
    size = workload.tokens_per_batch * config.num_heads * config.head_dim
    return {
      'flops': flops,
      'bytes': transferred,
      'peak_bytes': cost.peak_bytes(self.compiled),
      'projections_in_loop': sum(
        products >= size // 2
        for products in cost.products_in_loops(compiled.as_text())
      ),
    }

  def smallest_margin(self, batch: Any, tokens: np.ndarray) -> float:
    """Least distance between the chosen token's logit and the next best.

    Of a system without merging, by teacher forcing with its own answers.
    """
    programs = self._programs
    inputs = np.pad(tokens[:, :-1], ((0, 0), (1, 0)))

    @jax.jit
    def margins(params, batch, inputs):
      encoded = programs.model.encode(
        params, batch, programs.mode, programs.inference
      )
      logits = programs.model.module.apply(
        programs.model.variables(params),
        encoded.states,
        encoded.mask,
        inputs,
        method='decode_all',
      )
      best = jax.lax.top_k(logits, 2)[0]
      return best[..., 0] - best[..., 1]

    found = np.asarray(margins(programs.params, batch, inputs))
    return float(found[tokens != 0].min())


def one_cost(lowered: jax.stages.Lowered) -> Mapping[str, float]:
  """Cost analysis of a program that is not compiled."""
  found = lowered.cost_analysis()
  if found is None:
    raise RuntimeError('This backend counts no operations.')
  return found


def summary(values: Sequence[float]) -> dict[str, float]:
  """Median, 95th percentile, smallest and largest."""
  return {
    'median': statistics.median(values),
    'p95': float(np.percentile(values, 95)),
    'smallest': min(values),
    'largest': max(values),
  }


@dataclasses.dataclass
class Times:
  """Seconds per batch, one entry per repeat, what was answered, and the batch
  that was looked up last."""

  wall: list[float] = dataclasses.field(default_factory=list)
  processor: list[float] = dataclasses.field(default_factory=list)
  look_up: list[float] = dataclasses.field(default_factory=list)
  tokens: list[np.ndarray] = dataclasses.field(default_factory=list)
  last_batch: Any = None


def settle(pause: float = 0.002, limit: float = 0.5) -> None:
  """Waits until this process computes nothing any more.

  A program gives its memory back after its answer, in a thread of its own: 30
  milliseconds for a gigabyte, which on one core the next look-up waited for.

  Args:
    pause: seconds; whoever uses a tenth of them is still at work.
    limit: seconds to wait at most.
  """
  deadline = time.perf_counter() + limit
  used = time.process_time()
  while time.perf_counter() < deadline:
    time.sleep(pause)
    before, used = used, time.process_time()
    if used - before < pause / 10:
      return


def take_turns(
  runners: Mapping[str, Runner],
  ask: Callable[[], tuple[np.ndarray, np.ndarray]],
  repeats: int,
  warm_ups: int = 1,
  progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Times]:
  """Every runner answers every batch; the order rotates.

  Args:
    runners: by name.
    ask: gives the next batch: question tokens and passage numbers.
    repeats: batches on the clock.
    warm_ups: batches before that.
    progress: called with runs done and runs in all.

  Returns:
    Times by name; `wall` and `processor` include the look-up, and `processor`
    what a program still does after its answer (`settle`).
  """
  names = list(runners)
  times = {name: Times() for name in names}
  total, done = (warm_ups + repeats) * len(names), 0
  for turn in range(-warm_ups, repeats):
    questions, numbers = ask()
    for position in range(len(names)):
      name = names[(position + turn) % len(names)]
      runner = runners[name]
      processor, wall = time.process_time(), time.perf_counter()
      batch = runner.look_up(questions, numbers)
      looked_up = time.perf_counter()
      tokens = runner.read(batch)
      ended = time.perf_counter()
      settle()
      processor = time.process_time() - processor
      done += 1
      progress(done, total)
      if turn >= 0:
        times[name].wall.append(ended - wall)
        times[name].processor.append(processor)
        times[name].look_up.append(looked_up - wall)
        times[name].tokens.append(tokens)
        times[name].last_batch = batch
  return times
