"""The benchmark: fair turns, honest counts, equal answers."""

from __future__ import annotations

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from btr_jax import config as config_lib
from btr_jax.evaluation import benchmark, benchmark_inputs, cost, speed_report

WORKLOAD = benchmark_inputs.Workload(
  passages=3,
  batch=2,
  question_length=4,
  passage_length=12,
  padded_length=16,
  answer_length=5,
)


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
  """A reader of few operations under the benchmark's own names."""
  sizes = dict(benchmark_inputs.SIZES['tiny'], vocab_size=64, embed_dim=32)
  sizes |= dict(num_heads=2, head_dim=16, mlp_dim=96, num_encoder_layers=4)
  sizes |= dict(split_layer=2)
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(benchmark_inputs.SIZES, 'tiny', sizes)
    reader = benchmark_inputs.random_reader(
      'tiny', config_lib.CodecConfig('residual', 8), 'float32'
    )
  folder = tmp_path_factory.mktemp('benchmark')
  return benchmark_inputs.Corpus(reader, 6, WORKLOAD.passage_length, folder)


def test_sizes_are_those_of_training(repository):
  for size, values in benchmark_inputs.SIZES.items():
    path = pathlib.Path(repository) / 'gin_configs' / 'models' / f'{size}.gin'
    text = path.read_text()
    for name, value in values.items():
      gin_name = name.upper() if name == 'split_layer' else name
      found = re.search(rf'\b{gin_name} = (\w+)', text)
      if found:
        assert found.group(1) == str(value), (size, name)
      else:
        assert name == 'vocab_size', (size, name)


def test_a_group(corpus):
  systems = [
    benchmark.System('joint', 'cached'),
    benchmark.System('joint', 'absorbed'),
    benchmark.System('float', 'absorbed'),
    benchmark.System('binary', 'reproject'),
    benchmark.System('binary', 'absorbed'),
    benchmark.System(
      'binary', 'absorbed', config_lib.MergingConfig(0.25, 0.25, 1)
    ),
    benchmark.System('binary', 'absorbed', int8_products=True),
  ]
  runners = {s.name: benchmark.JaxRunner(s, corpus, WORKLOAD) for s in systems}
  times = benchmark.take_turns(runners, lambda: corpus.ask(WORKLOAD), repeats=3)
  roofline = cost.Roofline(1e9, 1e9, 'made up')
  found = speed_report.group(WORKLOAD, runners, times, roofline, margins=True)
  rows = {row['name']: row for row in found['rows']}
  assert list(rows) == [s.name for s in systems]
  for row in rows.values():
    seconds = row['seconds_per_question']
    assert 0 < seconds['smallest'] <= seconds['median'] <= seconds['p95']
    assert seconds['p95'] <= seconds['largest']
    assert row['look_up_seconds_per_question']['median'] < seconds['largest']
    assert row['flops'] > 0 and row['bytes'] > 0 and row['peak_bytes'] > 0
    assert row['compile_seconds'] > 0 and row['roofline_share'] > 0
  # The same tokens where that is claimed, and by a margin beyond rounding.
  assert rows['joint cached']['same_tokens_as'] == {'joint absorbed': 1.0}
  assert rows['binary absorbed']['same_tokens_as'] == {'binary reproject': 1.0}
  assert rows['float absorbed']['same_tokens_as'] == {}
  assert rows['joint cached']['smallest_margin'] > 1e-4
  assert 'smallest_margin' not in rows[systems[-2].name]
  # Eight bits are another kind: they claim no other row's tokens.
  assert rows['binary absorbed int8']['same_tokens_as'] == {}
  assert rows['binary absorbed int8']['int8_products'] is True
  # Bits spare the lower layers, absorption the projection, merging tokens.
  flops = [row['flops'] for row in rows.values()]
  assert flops[0] > flops[4] > flops[5]
  for name in ('joint cached', 'joint absorbed', 'binary absorbed'):
    assert rows[name]['projections_in_loop'] == 0
  ratio = rows['joint cached']['speedup']['joint cached']
  assert ratio['wall'] == {'median': 1, 'smallest': 1, 'largest': 1}
  assert 'torch joint' not in rows['joint cached']['speedup']
  rendered = speed_report.table(found)
  assert rendered.row_count == len(systems)


def test_operations_are_counted_by_hand(corpus):
  """The difference of two answer lengths is that many steps."""
  system = benchmark.System('joint', 'cached')

  def flops(answer_length):
    import dataclasses

    workload = dataclasses.replace(WORKLOAD, answer_length=answer_length)
    return benchmark.JaxRunner(system, corpus, workload).cost()['flops']

  config = corpus.reader.config
  memory = WORKLOAD.passages * (4 + 16)
  wide = config.num_heads * config.head_dim
  per_layer = 6 * config.embed_dim * wide + 3 * config.embed_dim * (
    config.mlp_dim
  )
  products = config.num_decoder_layers * (per_layer + 2 * memory * wide)
  products += config.embed_dim * config.vocab_size
  step = 2 * WORKLOAD.batch * products
  extra = (flops(9) - flops(5)) / 4
  # Softmax and norms come on top.
  assert step < extra < 1.5 * step


def test_turns_rotate_and_all_get_the_same():
  log = []

  class Fake:
    compile_seconds = 0.0

    def __init__(self, name):
      self.name = name

    def look_up(self, questions, numbers):
      log.append((self.name, int(questions[0])))
      return questions

    def read(self, batch):
      return batch

  asked = iter(range(10))
  times = benchmark.take_turns(
    {name: Fake(name) for name in 'ab'},
    lambda: (np.array([next(asked)]), np.array([0])),
    repeats=2,
  )
  assert [number for _, number in log] == [0, 0, 1, 1, 2, 2]
  assert [name for name, _ in log[2:]] == ['a', 'b', 'b', 'a']
  assert [t.tolist() for t in times['a'].tokens] == [[1], [2]]
  assert len(times['b'].wall) == len(times['b'].processor) == 2


class Clock:
  """Time that passes by sleeping, and processor time as told."""

  def __init__(self, used):
    self.now = 0.0
    self._used = iter(used)

  def perf_counter(self):
    return self.now

  def process_time(self):
    return next(self._used)

  def sleep(self, seconds):
    self.now += seconds


def test_settling_waits_while_anything_is_computed(monkeypatch):
  clock = Clock([0.0, 0.002, 0.003, 0.0031, 9.0])
  monkeypatch.setattr(benchmark, 'time', clock)
  benchmark.settle(pause=0.002)
  assert clock.now == pytest.approx(3 * 0.002)
  clock = Clock(float(i) for i in range(100))
  monkeypatch.setattr(benchmark, 'time', clock)
  benchmark.settle(pause=0.002, limit=0.01)
  assert clock.now == pytest.approx(0.01)


def test_what_a_program_does_after_its_answer_is_its_own(monkeypatch):
  """Freeing memory: in its processor time, in nobody's wall time."""
  clock = Clock([0.0, 1.5])
  monkeypatch.setattr(benchmark, 'time', clock)
  monkeypatch.setattr(benchmark, 'settle', lambda: clock.sleep(7.0))

  class Fake:
    compile_seconds = 0.0

    def look_up(self, questions, numbers):
      clock.sleep(0.25)
      return questions

    def read(self, batch):
      clock.sleep(1.0)
      return batch

  asked = np.array([0]), np.array([0])
  times = benchmark.take_turns(
    {'a': Fake()}, lambda: asked, repeats=1, warm_ups=0
  )['a']
  assert (times.wall, times.look_up) == ([1.25], [0.25])
  assert times.processor == [1.5]


def test_products_in_loops():
  def looped(x, w):
    def body(_, x):
      return jnp.tanh(x @ w)

    return jax.lax.fori_loop(0, x[0, 0].astype(jnp.int32), body, x @ w)

  text = (
    jax.jit(looped).lower(jnp.ones((6, 8)), jnp.ones((8, 8))).as_text('hlo')
  )
  assert cost.products_in_loops(text) == [48]
  text = jax.jit(jnp.dot).lower(jnp.ones((6, 8)), jnp.ones((8, 8)))
  assert cost.products_in_loops(text.as_text('hlo')) == []


def test_roofline():
  rates = cost.Roofline(100.0, 10.0, 'made up')
  assert rates.seconds(200.0, 10.0) == 2.0
  assert rates.seconds(100.0, 30.0) == 3.0
  assert cost.add_steps(
    {'flops': 5.0, 'bytes accessed': 7.0},
    {'flops': 1.0, 'bytes accessed': 2.0},
    4,
  ) == (8.0, 13.0)


def test_unknown_size_is_named():
  with pytest.raises(ValueError, match="size is 'huge'; expected one of tiny"):
    benchmark_inputs.random_reader('huge', config_lib.CodecConfig(), 'float32')
