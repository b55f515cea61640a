"""`btr export-cache`: every action, dry and real, alone and in company."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys

import pytest

from btr_jax.data import records
from btr_jax.tools import cache_actions, cache_jobs, common


def tree(path):
  return {
    file.relative_to(path).as_posix(): hashlib.sha256(
      file.read_bytes()
    ).hexdigest()
    for file in path.rglob('*')
    if file.is_file()
  }


@pytest.fixture(scope='module')
def corpus_file(tmp_path_factory, tiny_passages):
  path = tmp_path_factory.mktemp('corpus') / 'mine.jsonl'
  records.write_passages(path, tiny_passages)
  return path


@pytest.fixture
def export_cache(btr, tiny_family, corpus_file):
  """Runs an action; returns its last line, or the message of a refusal."""

  def run(action, *argv, fails=False, corpus=corpus_file):
    with_model = action in ('build', 'append', 'repair')
    own = ['--reader', tiny_family, '--corpus', corpus] if with_model else []
    if action == 'build':
      own += ['--passages-per-shard', 5]
    code, out, err = btr('export-cache', action, *own, '--batch', 4, *argv)
    assert 'Traceback' not in err
    if fails:
      assert code == 2, out
      return err
    assert code == 0, err
    return json.loads(out.splitlines()[-1])

  return run


def test_the_dial_is_in_the_cache(export_cache, btr, tmp_path):
  """--bits: fewer bytes, and only a reader of as many bits reads it."""
  path = tmp_path / 'narrow'
  record = export_cache('build', '--cache', path, '--bits', 8)
  assert record['status'] == 'complete'
  code, out, _ = btr('inspect-cache', path)
  assert code == 0 and 'residual, 1+3 bytes' in out
  message = export_cache('build', '--cache', path, '--bits', 16, fails=True)
  assert '1+3 bytes' in message and '2+3 bytes' in message
  assert 'positive multiple of 8' in export_cache(
    'build', '--cache', tmp_path / 'odd', '--bits', 12, fails=True
  )


@pytest.fixture
def built(export_cache, tmp_path):
  path = tmp_path / 'cache'
  record = export_cache('build', '--cache', path)
  assert record['status'] == 'complete' and record['shards'] == 5
  return path


def test_dry_run_of_a_build(export_cache, tmp_path):
  path = tmp_path / 'cache'
  record = export_cache('build', '--cache', path, '--dry-run')
  assert record['missing_shards'] == [0, 1, 2, 3, 4]
  assert record['passages_to_encode'] == 24
  assert not path.exists()
  record = export_cache(
    'build', '--cache', path, '--dry-run', '--shards', '2/3'
  )
  assert record['missing_shards'] == [1, 4]


def test_shares_and_merge(export_cache, built, tmp_path):
  parts = [tmp_path / f'part{i}' for i in (1, 2)]
  for index, part in enumerate(parts, 1):
    record = export_cache('build', '--cache', part, '--shards', f'{index}/2')
    assert record['status'] == 'building'
  whole = tmp_path / 'whole'
  merge = ('merge', *parts, '--cache', whole)
  record = export_cache(*merge, '--dry-run')
  assert record['missing_shards'] == [] and not whole.exists()
  export_cache(*merge)
  assert tree(whole) == tree(built)
  error = export_cache('merge', parts[0], '--cache', tmp_path / 'x', fails=True)
  assert '2 of 5 shards are in none of the parts' in error


def test_append(export_cache, built, tmp_path, tiny_passages):
  path, short = tmp_path / 'short', tmp_path / 'short.jsonl'
  records.write_passages(short, tiny_passages[:12])
  export_cache('build', '--cache', path, corpus=short)
  before = tree(path)
  record = export_cache('append', '--cache', path, '--dry-run')
  assert record['missing_shards'] == [2, 3, 4]
  assert tree(path) == before
  export_cache('append', '--cache', path)
  assert tree(path) == tree(built)
  error = export_cache('append', '--cache', path, corpus=short, fails=True)
  assert '12 passages' in error and '24' in error


def test_repair(export_cache, built):
  sound = tree(built)
  shard = built / 'bits/c.1.0'
  content = bytearray(shard.read_bytes())
  content[3] ^= 1
  shard.write_bytes(content)
  (built / 'manifest.json').write_bytes(b'{')
  record = export_cache('repair', '--cache', built, '--dry-run')
  assert len(record['problems']) == 1 and record['missing_shards'] == [1]
  assert tree(built) != sound
  record = export_cache('repair', '--cache', built)
  assert record['problems_left'] == []
  assert tree(built) == sound


def test_export_and_urls(export_cache, built, tmp_path):
  url = f'file://{tmp_path}/store'
  record = export_cache('export', '--cache', built, '--to', url, '--dry-run')
  assert record['files'] == 5 * 6 + 7 and not (tmp_path / 'store').exists()
  export_cache('export', '--cache', built, '--to', url)
  assert tree(tmp_path / 'store') == tree(built)
  assert export_cache('verify', '--cache', url)['problems'] == []
  record = export_cache('build', '--cache', url)
  assert record['status'] == 'complete'


def test_plan_of_a_corpus_to_come(export_cache):
  record = export_cache(
    'plan',
    *('--passages', 32_000_000, '--rate', 1000, '--hosts', 4),
    *('--devices-per-host', 8, '--tokens-per-passage', 50),
  )
  assert record['hours'] == pytest.approx(32e6 / 32_000 / 3600, rel=0.05)
  assert record['device_hours'] == pytest.approx(32 * record['hours'])
  assert record['bytes'] > 32e6 * 50
  late = record['host_dies_halfway']
  assert late['one_job']['seconds'] >= late['independent']['seconds']
  assert late['one_job']['seconds'] > record['simulated']['seconds']


def test_plan_of_a_gin_file_by_its_operations(export_cache):
  record = export_cache(
    'plan',
    *('--passages', 1_000_000, '--gin_file', 'gin_configs/btr_base.gin'),
    *('--peak-flops', 1e15, '--utilisation', 0.4, '--codec', 'calibrated'),
  )
  # Nine layers of T5.1.1 base, 128 tokens, by hand: the four projections of
  # attention, its two products, and the three of the gated feed-forward.
  tokens, embed, heads, mlp = 128, 768, 768, 2048
  layer = 2 * tokens * (4 * embed * heads + 3 * embed * mlp)
  layer += 2 * 2 * tokens * tokens * heads
  assert record['flops_per_passage'] == pytest.approx(9 * layer, rel=0.01)
  assert record['rate'] == pytest.approx(0.4e15 / record['flops_per_passage'])
  assert record['bytes_per_token'] < 102
  assert record['codec_bytes'] == [96, 2]


@pytest.mark.parametrize(
  'argv, message',
  [
    (('plan', '--passages', '9'), '--rate'),
    (
      ('plan', '--passages', '9', '--rate', '1', '--tokens-per-passage', '1e9'),
      'at most',
    ),
    (('merge', '--cache', 'x'), 'needs the partial caches'),
    (('merge', 'x'), 'needs --cache'),
    (('export', '--cache', 'x'), '--to'),
    (('export', '--cache', 'nowhere', '--to', 'y'), 'nowhere is not a cache'),
    (('verify', '--cache', 'x', '--dry-run'), '--dry-run has no meaning'),
    (('verify', 'x'), 'parts has no meaning for verify'),
    (('build', '--shards', '9/8', '--cache', 'x'), 'Share 9/8'),
    (('build', '--process_count=2', '--cache', 'x'), 'coordinator_address'),
    (('repair', '--cache', 'nowhere'), 'nowhere is not a cache'),
  ],
)
def test_what_is_refused(export_cache, argv, message):
  assert message in export_cache(*argv, fails=True)


def test_several_processes_are_for_build():
  job = cache_jobs.Job(together=True)
  with pytest.raises(common.UserError, match='for build alone'):
    cache_actions.main(['repair', '--cache', 'x'], job)


@pytest.mark.slow
def test_two_processes_build_what_one_builds(
  export_cache, built, tiny_family, corpus_file, tmp_path
):
  path = tmp_path / 'together'
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    port = probe.getsockname()[1]
  command = [
    *(sys.executable, '-m', 'btr_jax.tools.main', 'export-cache', 'build'),
    *('--reader', str(tiny_family), '--corpus', str(corpus_file)),
    *('--batch', '4', '--passages-per-shard', '5', '--cache', str(path)),
    f'--coordinator_address=127.0.0.1:{port}',
    '--process_count=2',
  ]
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu'}
  processes = [
    subprocess.Popen(
      [*command, f'--process_index={index}'],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      env=environment,
    )
    for index in range(2)
  ]
  outputs = [process.communicate(timeout=200) for process in processes]
  for process, (out, err) in zip(processes, outputs, strict=True):
    assert process.returncode == 0, err
    assert json.loads(out.splitlines()[-1])['status'] == 'complete'
  assert tree(path) == tree(built)
  assert not list(path.glob('*.lock'))
  shutil.rmtree(path)
