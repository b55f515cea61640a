"""compress-cache, benchmark-cache, memmap, and reading what they make."""

from __future__ import annotations

import json

import numpy as np
import pytest


@pytest.fixture(scope='module')
def built(tmp_path_factory, tiny_family, data_folder):
  """A cache of the tiny corpus."""
  import os

  from btr_jax.tools import main as main_lib

  path = tmp_path_factory.mktemp('built') / 'cache'
  before = os.environ.get('BTR_DATA_DIR')
  os.environ['BTR_DATA_DIR'] = str(data_folder)
  try:
    argv = ['export-cache', 'build', '--reader', tiny_family, '--cache', path]
    assert main_lib.main([str(argument) for argument in argv]) == 0
  finally:
    if before is None:
      del os.environ['BTR_DATA_DIR']
    else:
      os.environ['BTR_DATA_DIR'] = before
  return path


def test_compress_then_inspect_verify_evaluate_ask(
  btr, last_json, built, tiny_family, tmp_path
):
  small = tmp_path / 'small'
  made = last_json(
    'compress-cache',
    built,
    '--output',
    small,
    '--reader',
    tiny_family,
    '--ratio',
    '0.3',
  )
  tokens = made['compression']['tokens']
  assert tokens['shared'] > 0 and tokens['merged'] > 0
  inspected = last_json('inspect-cache', small, '--dims', '32')
  assert inspected['status'] == 'complete'
  assert inspected['parts'] == made['parts']
  assert inspected['comparison']['float32'] == 128
  code, out, _ = btr('export-cache', 'verify', '--cache', small)
  assert code == 0 and json.loads(out.splitlines()[-1])['problems'] == []
  reader = ('--reader', tiny_family, '--cache', small)
  evaluated = last_json(
    'evaluate',
    *reader,
    '--mode',
    'binary',
    '--limit',
    '3',
    '--seeds',
    '0',
    '--repeats',
    '0',
  )
  (row,) = evaluated['modes']
  assert row['bytes_per_token'] == made['total']['bytes_per_token']
  asked = last_json('ask', *reader, 'What is the capital of Peru?')
  assert len(asked['answers']) == 1

  file = small / 'bits/c.0.0'
  content = bytearray(file.read_bytes())
  content[0] ^= 1
  file.write_bytes(content)
  code, out, err = btr('export-cache', 'verify', '--cache', small)
  assert code == 2
  (problem,) = json.loads(out.splitlines()[-1])['problems']
  assert 'bits/c.0.0' in problem


def test_answers_are_the_same_where_nothing_is_merged(
  last_json, built, tiny_family, tmp_path
):
  same = tmp_path / 'same'
  last_json(
    'compress-cache',
    built,
    '--output',
    same,
    '--ratio',
    '0',
    '--keep-stop-words',
  )
  question = 'What is the capital of Peru?'
  found = [
    last_json('ask', '--reader', tiny_family, '--cache', path, question)
    for path in (built, same)
  ]
  texts = [record['answers'][0]['answer'] for record in found]
  assert texts[0] == texts[1]


def test_memmap(last_json, btr, built, tmp_path):
  flat = tmp_path / 'flat'
  written = last_json('export-cache', 'memmap', built, '--output', flat)
  bits = np.load(flat / 'bits.npy', mmap_mode='r')
  assert len(bits) == written['tokens']
  code, _, err = btr('export-cache', 'memmap', built, '--output', flat)
  assert code == 2 and 'exists already' in err


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--ratio', '0.7'], 'not a number from 0 to 0.5'),
    (['--block-size', '1', '--keep-stop-words'], 'block_size is 1'),
    (['--vocabulary', 'nothing.model'], 'no vocabulary at nothing.model'),
  ],
)
def test_compress_refuses(btr, built, tmp_path, arguments, message, capsys):
  argv = ['compress-cache', built, '--output', tmp_path / 'small', *arguments]
  try:
    code, _, err = btr(*argv)
  except SystemExit as error:  # argparse
    code, err = error.code, capsys.readouterr().err
  assert code == 2 and message in err and 'Traceback' not in err
  assert not (tmp_path / 'small').exists()


def test_another_vocabulary_is_refused(btr, built, tmp_path):
  code, _, err = btr('compress-cache', built, '--output', tmp_path / 'small')
  assert code == 2 and '--keep-stop-words' in err


def test_evaluate_refuses_a_cache_for_many_systems(btr, built, tiny_family):
  code, _, err = btr('evaluate', '--reader', tiny_family, '--cache', built)
  assert code == 2 and '--mode binary' in err


def test_benchmark_costs(last_json, tmp_path):
  record = last_json(
    'benchmark-cache',
    'costs',
    '--folder',
    tmp_path,
    '--passages',
    '1100',
    '--open-passages',
    '3000',
    '--compress-passages',
    '1100',
    '--warm-repeats',
    '2',
    '--cold-repeats',
    '1',
    '--scale-bits',
    '8',
    '--output',
    tmp_path / 'record.json',
  )
  assert json.loads((tmp_path / 'record.json').read_text()) == record
  assert record['opening']['passages'] == 3000
  parts = record['storage']['parts']
  assert parts['bits']['payload_bytes'] == 1100 * 12288
  assert parts['scale']['payload_bytes'] == 1100 * 128
  assert str(tmp_path) not in json.dumps(record['storage'])
  assert [entry.name for entry in tmp_path.iterdir()] == ['record.json']


def test_benchmark_curve(btr, last_json, built, tiny_family, tmp_path):
  record = last_json(
    'benchmark-cache',
    'curve',
    '--cache',
    built,
    '--reader',
    tiny_family,
    '--ratios',
    '.1,.5',
    '--questions',
    '2',
    '--plot',
    tmp_path / 'curve.png',
  )
  reports = [point['report'] for point in record['points']]
  # Not the files: so few tokens are mostly padding to whole chunks.
  sizes = [report['parts']['bits']['payload_bytes'] for report in reports]
  assert [p['ratio'] for p in record['points']] == [None, 0.0, 0.1, 0.5]
  assert sizes[0] > sizes[1] > sizes[2] > sizes[3]
  assert record['questions'] == 2
  for point in record['points']:
    assert 0 <= point['em'] <= point['f1'] <= 100
  assert (tmp_path / 'curve.png').exists()
  code, _, err = btr('benchmark-cache', 'costs', '--plot', 'x.png')
  assert code == 2 and '--plot' in err
