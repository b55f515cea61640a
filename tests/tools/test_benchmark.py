"""`btr benchmark` as a user runs it, on a reader of few operations."""

from __future__ import annotations

import json

import pytest

from btr_jax.evaluation import benchmark_inputs


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch):
  sizes = dict(benchmark_inputs.SIZES['tiny'], vocab_size=64, embed_dim=32)
  sizes |= dict(num_heads=2, head_dim=16, mlp_dim=32, num_encoder_layers=2)
  sizes |= dict(split_layer=1, num_decoder_layers=1)
  monkeypatch.setitem(benchmark_inputs.SIZES, 'tiny', sizes)


def test_benchmark(last_json, tmp_path):
  output, plot = tmp_path / 'record.json', tmp_path / 'plot.png'
  record = last_json(
    'benchmark',
    *('--passages', '2', '--passage-length', '12', '--maximum-length', '40'),
    *('--modes', 'joint,binary', '--cross', 'absorbed', '--merge', '0.2'),
    '--int8-products',
    *('--question-length', '4', '--answer-length', '3', '--repeats', '1'),
    *('--output', output, '--plot', plot),
  )
  workloads = [group['workload'] for group in record['groups']]
  # The bucket, and the maximum.
  assert [(w['passages'], w['padded_length']) for w in workloads] == [
    (2, 32),
    (2, 40),
  ]
  for group in record['groups']:
    assert [row['name'] for row in group['rows']] == [
      'joint absorbed',
      'binary absorbed',
      'binary absorbed intra 0.2 cross 0.2',
      'joint absorbed int8',
      'binary absorbed int8',
      'binary absorbed intra 0.2 cross 0.2 int8',
    ]
  bucket, maximum = (group['rows'] for group in record['groups'])
  assert maximum[0]['flops'] > bucket[0]['flops']
  assert record['retrieval'] is None
  assert record['roofline']['flops_per_second'] > 0
  assert record['environment']['devices']
  assert json.loads(output.read_text()) == record
  assert plot.read_bytes().startswith(b'\x89PNG')


@pytest.mark.parametrize(
  'argv, message',
  [
    (['--size', 'huge'], "size is 'huge'"),
    (['--modes', 'fast'], "--modes is 'fast'"),
    (['--cross', 'none'], "--cross is 'none'"),
    (['--merge', '0.7'], '0.7; expected 0 to 0.5'),
    (['--merge', '0.2', '--merge-places', 'here'], "'here'"),
    (['--dtype', 'int8'], "--dtype is 'int8'"),
    (['--maximum-length', '5'], 'at least --passage-length (128)'),
    (['--reader', 'nowhere'], 'nowhere is no reader'),
  ],
)
def test_bad_arguments(btr, argv, message):
  code, _, err = btr('benchmark', *argv)
  assert code == 2
  assert message in err and 'Traceback' not in err
