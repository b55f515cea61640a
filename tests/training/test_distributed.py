"""Flags of several processes, and which share of the data each reads."""

from __future__ import annotations

import numpy as np
import pytest

from btr_jax import train
from btr_jax.training import distributed, partitioning


def test_one_process_needs_no_flag():
  assert distributed.split_flags(['--gin_file=a.gin', '--gin.X=1']) == (
    None,
    ['--gin_file=a.gin', '--gin.X=1'],
  )
  distributed.initialize(None)


def test_flags_are_taken_out_wherever_they_stand():
  config, rest = distributed.split_flags(
    [
      '--coordinator_address=10.0.0.1:8476',
      '--gin_file',
      'a.gin',
      '--process_count',
      '4',
      '--process_index=3',
      '--gin.SEED=1',
      '--heartbeat_timeout=20',
    ]
  )
  assert rest == ['--gin_file', 'a.gin', '--gin.SEED=1']
  assert config == distributed.DistributedConfig(
    '10.0.0.1:8476', 4, 3, heartbeat_timeout=20
  )


@pytest.mark.parametrize(
  'switch', ['--multiprocess', '--multiprocess_gpu=true']
)
def test_the_cluster_may_tell(switch):
  config, rest = distributed.split_flags([switch, '--initialization_timeout=9'])
  assert rest == []
  assert config == distributed.DistributedConfig(initialization_timeout=9)
  assert distributed.split_flags(['--multiprocess=false']) == (None, [])


@pytest.mark.parametrize(
  'argv, message',
  [
    (['--process_count=2'], '--coordinator_address, --process_index not given'),
    (
      ['--coordinator_address=h', '--process_count=2', '--process_index=0'],
      "is 'h'; expected host:port",
    ),
    (
      ['--coordinator_address=h:1', '--process_count=2', '--process_index=2'],
      '--process_index is 2; expected 0 to 1',
    ),
    (['--process_count=two'], "--process_count is 'two'; expected a whole"),
    (['--process_index'], "--process_index is ''; expected a whole number"),
    (['--heartbeat_timeout=0', '--multiprocess'], 'heartbeat_timeout is 0'),
    (['--heartbeat_timeout=9'], 'without processes'),
    (['--multiprocess=2'], 'expected --multiprocess without a value'),
  ],
)
def test_bad_flags(argv, message, capsys):
  with pytest.raises(ValueError, match=message):
    distributed.split_flags(argv)
  assert train.main(['--gin_file=gin_configs/btr_tiny.gin', *argv]) == 2
  assert 'Traceback' not in capsys.readouterr().err


class Device:
  def __init__(self, process_index):
    self.process_index = process_index


def devices(processes, per_process, shape):
  listed = [Device(p) for p in range(processes) for _ in range(per_process)]
  return np.array(listed).reshape(shape)


@pytest.mark.parametrize(
  'processes, per_process, shape, expected',
  [
    (1, 4, (2, 2), [(0, 1)]),
    (2, 2, (4, 1), [(0, 2), (1, 2)]),
    (2, 2, (2, 2), [(0, 2), (1, 2)]),
    # The axis `model` spans hosts: they read the same examples.
    (2, 2, (1, 4), [(0, 1), (0, 1)]),
    (4, 4, (2, 8), [(0, 2), (0, 2), (1, 2), (1, 2)]),
    (8, 4, (8, 4), [(i, 8) for i in range(8)]),
  ],
)
def test_shares_by_process(processes, per_process, shape, expected):
  mesh = devices(processes, per_process, shape)
  found = [partitioning.data_shard(mesh, index) for index in range(processes)]
  assert found == expected


def test_a_model_axis_that_cuts_through_hosts():
  mesh = devices(3, 4, (2, 6))
  with pytest.raises(
    ValueError, match=r'MESH is \(2, 6\) over 3 processes of 4'
  ):
    partitioning.data_shard(mesh, 0)
