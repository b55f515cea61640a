"""Readers against each other on one workload: time, cost, the same tokens.

All systems get the same questions and the same passages, and take turns, so
that whatever else the machine does hits them alike. A batch is looked up and
moved to the device, and then read by one fused program; the two are timed
apart. Compilation comes before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import pathlib
import statistics
import time
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from btr_jax import cache as cache_lib
from btr_jax import config as config_lib
from btr_jax.cache import builder
from btr_jax.evaluation import cost
from btr_jax.models import model as model_lib
from btr_jax.serving import programs as programs_lib

SIZES = {
  'tiny': dict(
    embed_dim=128,
    num_heads=4,
    head_dim=32,
    mlp_dim=192,
    num_encoder_layers=10,
    num_decoder_layers=2,
    split_layer=8,
    vocab_size=4196,
    logits_via_embedding=True,
  ),
  'small': dict(
    embed_dim=512,
    num_heads=6,
    head_dim=64,
    mlp_dim=1024,
    num_encoder_layers=8,
    num_decoder_layers=8,
    split_layer=6,
    vocab_size=32128,
  ),
  'base': dict(
    embed_dim=768,
    num_heads=12,
    head_dim=64,
    mlp_dim=2048,
    num_encoder_layers=12,
    num_decoder_layers=12,
    split_layer=9,
    vocab_size=32128,
  ),
  'large': dict(
    embed_dim=1024,
    num_heads=16,
    head_dim=64,
    mlp_dim=2816,
    num_encoder_layers=24,
    num_decoder_layers=24,
    split_layer=20,
    vocab_size=32128,
  ),
}
# Modes of the benchmark: `float` is DeFormer, the decomposed reader with its
# states in a bfloat16 cache on disk.
MODES = ('joint', 'decomposed', 'float', 'binary')
# Ids below are padding, end and unknown.
_FIRST_TOKEN = 3


@dataclasses.dataclass(frozen=True)
class System:
  """One way of answering.

  Attributes:
    mode: one of `MODES`.
    cross_attention: one of `config.CROSS_ATTENTIONS`.
    merging: which tokens are merged.
  """

  mode: str
  cross_attention: str
  merging: config_lib.MergingConfig = config_lib.NO_MERGING

  @property
  def name(self) -> str:
    merging = self.merging
    parts = [self.mode, self.cross_attention]
    if merging.intra_ratio:
      parts.append(f'intra {merging.intra_ratio:g}')
    if merging.cross_ratio:
      parts.append(f'cross {merging.cross_ratio:g}')
    return ' '.join(parts)


@dataclasses.dataclass(frozen=True)
class Workload:
  """What every system of a group does.

  Attributes:
    passages: per question.
    batch: questions read together.
    question_length: tokens of a question.
    passage_length: tokens of a passage.
    padded_length: what passages are padded to.
    answer_length: tokens at most.
  """

  passages: int
  batch: int
  question_length: int
  passage_length: int
  padded_length: int
  answer_length: int

  @property
  def tokens_per_batch(self) -> int:
    """Of the memory, question copies and padding included."""
    length = self.question_length + self.padded_length
    return self.batch * self.passages * length


@dataclasses.dataclass(frozen=True)
class Reader:
  """Weights and architecture, random or trained."""

  config: config_lib.ReaderConfig
  params: Mapping[str, Any]


def random_reader(
  size: str, codec: config_lib.CodecConfig, dtype: str, seed: int = 0
) -> Reader:
  """A reader of one of `SIZES` with T5's scale of weights, drawn by NumPy.

  Raises:
    ValueError: unknown size.
  """
  config_lib.check_choice('size', size, tuple(SIZES))
  config = config_lib.ReaderConfig(**SIZES[size], codec=codec, dtype=dtype)
  model = model_lib.BtrModel(config, config_lib.InputLimits(), stage=3)
  shapes = jax.eval_shape(
    lambda: model.get_initial_variables(jax.random.key(0), model.input_shapes())
  )['params']
  generator = np.random.default_rng(seed)

  def draw(path, leaf):
    names = [entry.key for entry in path]
    if names[-1] in ('scale', 'deviation', 'level'):
      return jnp.ones(leaf.shape)
    values = generator.standard_normal(leaf.shape, np.float32)
    if names[-1] == 'embedding':
      # Where logits are tied to them, large ones repeat the last token.
      return jnp.asarray(values * (0.2 if config.logits_via_embedding else 1))
    if names[-1] == 'table':
      return jnp.zeros(leaf.shape)
    scale = leaf.shape[0] ** -0.5
    if names[-2] == 'query':
      scale *= config.head_dim**-0.5
    return jnp.asarray(values * np.float32(scale))

  return Reader(config, jax.tree_util.tree_map_with_path(draw, shapes))


class Corpus:
  """Random passages of one length, and caches of them on disk."""

  def __init__(
    self,
    reader: Reader,
    num_passages: int,
    passage_length: int,
    folder: pathlib.Path,
    seed: int = 1,
  ):
    """Draws the passages; a cache is built when it is first asked for."""
    self.generator = np.random.default_rng(seed)
    self.reader = reader
    self.tokens = self._draw(num_passages, passage_length)
    self._folder = folder

  def _draw(self, *shape: int) -> np.ndarray:
    vocab_size = self.reader.config.vocab_size
    return self.generator.integers(_FIRST_TOKEN, vocab_size, shape, np.int32)

  def ask(self, workload: Workload) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of random questions, and numbers of random passages for them."""
    questions = self._draw(workload.batch, workload.question_length)
    numbers = self.generator.integers(
      0, len(self.tokens), (workload.batch, workload.passages)
    )
    return questions, numbers

  def reader_of(self, mode: str) -> Reader:
    """The reader whose codec this mode reads."""
    if mode != 'float':
      return self.reader
    codec = config_lib.CodecConfig('float')
    config = dataclasses.replace(self.reader.config, codec=codec)
    params = {k: v for k, v in self.reader.params.items() if k != 'codec'}
    return Reader(config, params)

  @functools.cache  # noqa: B019 (a corpus lives as long as the run)
  def store(self, mode: str) -> cache_lib.CacheStore:
    """The cache of mode `float` or `binary`, built by the model."""
    reader = self.reader_of(mode)
    length = self.tokens.shape[1]
    limits = config_lib.InputLimits(passage_length=length)
    model = model_lib.BtrModel(reader.config, limits, stage=3, mode='binary')
    path = self._folder / mode
    builder.build(
      path,
      lambda start, stop: self.tokens[start:stop],
      len(self.tokens),
      functools.partial(jax.jit(model.encode_passages), reader.params),
      model.codec_layout,
      dict.fromkeys(('model', 'codec', 'tokenizer', 'corpus'), 'random'),
      vocab_size=reader.config.vocab_size,
      batch_size=8,
    )
    return cache_lib.CacheStore.open(path)


@runtime_checkable
class Runner(Protocol):
  """Something that can be timed."""

  compile_seconds: float

  def look_up(self, questions: np.ndarray, numbers: np.ndarray) -> Any: ...

  def read(self, batch: Any) -> np.ndarray: ...


class JaxRunner:
  """One of our systems on one workload, compiled."""

  def __init__(self, system: System, corpus: Corpus, workload: Workload):
    self.system = system
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
      system.cross_attention, system.merging
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
    self.compiled = self._programs.compiled('answer', self._shapes)

  @property
  def compile_seconds(self) -> float:
    return self._programs.compile_seconds

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
        'passage_tokens': padded(self._corpus.tokens, numbers, length)
      }
    batch = {'question_tokens': questions, **passages}
    return jax.block_until_ready(jax.device_put(batch))

  def read(self, batch):
    return np.asarray(self.compiled(self._programs.params, batch))

  def cost(self) -> dict[str, Any]:
    """Operations, bytes and memory by the compiler's count."""
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
      cache, memories = jax.tree.unflatten(structures[0], leaves)
      tokens = jnp.zeros((workload.batch, 1), jnp.int32)
      return programs.model.module.apply(
        {'params': params},
        cache,
        memories,
        tokens,
        jnp.int32(0),
        method='decode_step',
      )

    leaves = jax.eval_shape(start, params, memory)
    one = jax.jit(step).lower(params, leaves)
    whole = jax.jit(programs.answer).lower(params, self._shapes)
    steps = workload.answer_length
    # Operations before optimization: backends hide products in calls that are
    # not counted. Bytes after it: fusion is what saves them.
    flops, _ = cost.add_steps(one_cost(whole), one_cost(one), steps)
    _, transferred = cost.add_steps(
      self.compiled.cost_analysis(), one.compile().cost_analysis(), steps
    )
    config = programs.model.config
    size = workload.tokens_per_batch * config.num_heads * config.head_dim
    return {
      'flops': flops,
      'bytes': transferred,
      'peak_bytes': cost.peak_bytes(self.compiled),
      'projections_in_loop': sum(
        products >= size // 2
        for products in cost.products_in_loops(self.compiled.as_text())
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
        {'params': params},
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


def padded(tokens: np.ndarray, numbers: np.ndarray, length: int) -> np.ndarray:
  """Passages by number, padded on the right with 0 to `length`."""
  found = tokens[numbers]
  return np.pad(found, ((0, 0), (0, 0), (0, length - found.shape[-1])))


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
    Times by name; `wall` and `processor` include the look-up.
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
