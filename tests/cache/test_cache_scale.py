"""The simulation of many hosts, against what can be worked out by hand."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest

from btr_jax.cache import plan as plans
from btr_jax.cache import scale

FAST = scale.Host(passages_per_second=10.0, bytes_per_second=1e12)


def simulate(shards=12, hosts=3, host=FAST, size=100, **options):
  return scale.simulate(
    [100] * shards, [size] * shards, [host] * hosts, **options
  )


def test_hosts_divide_the_time():
  # Ten seconds a shard.
  for hosts, rounds in ((1, 12), (3, 4), (5, 3), (12, 1), (20, 1)):
    outcome = simulate(hosts=hosts)
    assert outcome.seconds == pytest.approx(10 * rounds)
    assert outcome.encoding_seconds == pytest.approx(120)
    assert outcome.waiting_seconds == outcome.lost_passages == 0
    assert outcome.shards_written == 12


def test_the_slowest_host_sets_the_pace():
  slow = scale.Host(5.0, 1e12)
  outcome = scale.simulate([100] * 12, [1] * 12, [FAST, FAST, slow])
  assert outcome.seconds == pytest.approx(4 * 20)


def test_slow_writes_set_the_pace():
  # 20 s to write a shard, 10 s to encode one: the first is encoded, then the
  # disk is never idle.
  slow = scale.Host(10.0, 5.0)
  outcome = simulate(hosts=1, host=slow)
  assert outcome.seconds == pytest.approx(10 + 12 * 20)
  assert outcome.waiting_seconds > 0


def test_a_start_is_added():
  assert simulate(start=50.0).seconds == pytest.approx(90)


def test_a_job_that_dies_loses_the_shards_in_its_hands():
  death = scale.Death(host=1, at=25.0, back_after=7.0, together=True)
  outcome = simulate(death=death)
  # Two shards each are in the ledger; half a shard each is lost.
  assert outcome.lost_passages == 3 * 50
  assert outcome.seconds == pytest.approx(25 + 7 + 2 * 10)
  assert outcome.shards_written == 12


@pytest.mark.parametrize('at, extra', [(30.0, 30 + 7), (65.0, 7 + 5)])
def test_a_start_is_made_again_only_if_it_was_not_made(at, extra):
  """Death at half the start costs that half; later, half a shard."""
  death = scale.Death(host=0, at=at, back_after=7.0)
  outcome = simulate(start=60.0, death=death)
  assert outcome.seconds == pytest.approx(simulate(start=60.0).seconds + extra)


def test_an_independent_host_that_dies_delays_its_share_alone():
  death = scale.Death(host=1, at=25.0, back_after=7.0, together=False)
  outcome = simulate(death=death)
  assert outcome.lost_passages == 50
  assert outcome.seconds == pytest.approx(25 + 7 + 2 * 10)
  late = scale.Death(host=1, at=1000.0, back_after=7.0, together=False)
  assert simulate(death=late) == simulate()


def test_the_simulated_bytes_are_those_of_a_plan():
  plan = plans.plan(
    np.full(5000, 100),
    codec_kind='calibrated',
    bits_bytes=96,
    scale_bytes=2,
    vocab_size=32128,
    max_length=128,
    passages_per_shard=1024,
  )
  passages, sizes = scale.shard_sizes(plan.layout, 100.0)
  assert sum(passages) == 5000
  assert sizes == [plan.shard_bytes(shard) for shard in range(5)]


@pytest.mark.parametrize(
  'call, message',
  [
    (lambda: scale.Host(0.0, 1.0), 'passages_per_second is 0.0'),
    (lambda: scale.simulate([1], [1], []), 'no hosts'),
    (
      lambda: simulate(death=scale.Death(3, 1.0, 1.0)),
      'Host 3 is to die; expected 0 to 2',
    ),
  ],
)
def test_what_cannot_be_simulated(call, message):
  with pytest.raises(ValueError, match=message):
    call()


def test_the_page_says_what_the_record_says():
  """docs/scale.md, row by row: rate and its basis, TB, device-hours."""
  docs = pathlib.Path(__file__).parents[2] / 'docs'
  records = json.loads((docs / 'results/cache_scale.json').read_text())
  rows = [
    [cell.strip() for cell in line.strip('|').split('|')]
    for line in (docs / 'scale.md').read_text().splitlines()
    if line.startswith(('| Wikipedia', '| CCNet'))
  ]
  assert len(rows) == len(records) == 12
  for row, record in zip(rows, records, strict=True):
    basis = record['rate_basis'].replace(':', ',').partition(',')[0]
    assert row[3] == f'{record["rate"]:,.0f} ({basis})'
    assert row[4] == f'{record["bytes"] / 1e12:.2f}'
    assert row[6] == f'{record["device_hours"]:,.1f}'
    assert row[1] in record['command']
    # A rate that no record backs must not pass for a measured one.
    assert basis in ('assumed', 'calculated')
