"""The plan for a borrowed accelerator: its order, and that it stops in time."""

from __future__ import annotations

import json

import pytest

from btr_jax import config as config_lib
from btr_jax.evaluation import benchmark_inputs
from btr_jax.tools import benchmark, benchmark_accelerator


def unmade_reader(arguments):
  sizes = benchmark_inputs.SIZES[arguments.size]
  return benchmark_inputs.Reader(config_lib.ReaderConfig(**sizes), {})


@pytest.fixture
def asked(monkeypatch):
  """What `btr benchmark` is asked for; each run takes 100 seconds."""
  now, calls = [0.0], []

  def measure(arguments, reader):
    calls.append((arguments, reader))
    now[0] += 100.0
    rows = [{}] * len(benchmark.systems_of(arguments))
    return {'groups': [{'rows': rows, 'skipped': ['x']}]}

  monkeypatch.setattr(benchmark, 'measure', measure)
  monkeypatch.setattr(benchmark, 'make_reader', unmade_reader)
  clock = type('Clock', (), {'monotonic': staticmethod(lambda: now[0])})
  monkeypatch.setattr(benchmark_accelerator, 'time', clock)
  return calls


def test_parts_run_in_order_until_the_time_is_over(btr, asked, tmp_path):
  code, out, err = btr('benchmark-accelerator', tmp_path, '--budget', 280)
  assert code == 0
  record = json.loads(out.splitlines()[-1])
  plan = benchmark_accelerator.PARTS
  assert [part['name'] for part in record['parts']] == [p.name for p in plan]
  assert [part['rows'] for part in record['parts'][:3]] == [4, 6, 2]
  # No row of the others, and they are named.
  assert len(asked) == 3
  for part, planned in zip(record['parts'][3:], plan[3:], strict=True):
    assert (part['rows'], part['skipped']) == (0, planned.programs)
    assert f'{planned.name}: no time is left' in err
  # Each is told what is left, but for the seconds that measuring takes.
  assert [a.time_limit for a, _ in asked] == [250, 150, 50]
  assert [reader.config.embed_dim for _, reader in asked] == [768] * 3
  written = json.loads((tmp_path / 'base.json').read_text())
  assert written['part']['name'] == 'base' and written['seconds'] == 100


def test_parts_can_be_chosen(btr, asked, tmp_path):
  code, _, _ = btr(
    'benchmark-accelerator', tmp_path, '--parts', 'large,base', '--tiny'
  )
  assert code == 0
  assert [a.passages for a, _ in asked] == [[40], [40]]
  assert [a.size for a, _ in asked] == ['tiny', 'tiny']
  code, _, err = btr('benchmark-accelerator', tmp_path, '--parts', 'huge')
  assert code == 2 and "'huge'; expected some of base" in err


def test_programs_are_counted():
  for part in benchmark_accelerator.PARTS:
    arguments = benchmark.make_parser().parse_args(
      ['--size', part.size, *part.options.split()]
    )
    workloads = benchmark.workloads_of(arguments)
    count = len(benchmark.systems_of(arguments)) * len(workloads)
    assert count == part.programs, part.name
    for workload in workloads:
      assert workload.passage_length == 128 and workload.answer_length == 8


def test_nothing_is_compiled_after_the_time_limit(tmp_path):
  arguments = benchmark.make_parser().parse_args(
    ['--modes', 'joint', '--compile-threads', '2']
  )
  systems = benchmark.systems_of(arguments)
  (workload,) = benchmark.workloads_of(arguments)
  reader = unmade_reader(arguments)
  corpus = benchmark_inputs.Corpus(reader, 2, 128, tmp_path)
  found = benchmark._runners(arguments, systems, corpus, workload, -1.0)
  assert found == ({}, ['joint cached', 'joint absorbed'])
