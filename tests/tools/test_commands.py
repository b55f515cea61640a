"""Every command on a tiny reader and corpus, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from btr_jax.data import records


def test_plan_writes_nothing(last_json, tiny_family, tmp_path):
  path = tmp_path / 'cache'
  record = last_json(
    'export-cache', 'plan', '--reader', tiny_family, '--cache', path
  )
  assert record['passages'] == 24 and record['shards'] == 1
  assert record['bytes'] > record['tokens'] > 24
  assert record['seconds_estimated'] > 0
  assert not path.exists()


@pytest.mark.parametrize('codec', ['calibrated', 'residual', 'float'])
def test_build_inspect_verify(codec, btr, last_json, tiny_family, tmp_path):
  path = tmp_path / 'cache'
  built = last_json(
    'export-cache',
    'build',
    '--reader',
    tiny_family,
    '--codec',
    codec,
    '--cache',
    path,
  )
  assert built['codec_kind'] == codec
  inspected = last_json('inspect-cache', path)
  assert inspected['status'] == 'complete'
  assert inspected['parts'] == built['parts']
  on_disk = sum(f.stat().st_size for f in path.rglob('*') if f.is_file())
  assert inspected['total']['bytes'] == on_disk
  assert set(inspected['fingerprints']) == {
    'model',
    'codec',
    'tokenizer',
    'corpus',
  }
  verified = last_json_of(btr('export-cache', 'verify', '--cache', path))
  assert verified['problems'] == []

  (shard,) = path.glob('bits/c.0*')
  content = bytearray(shard.read_bytes())
  content[0] ^= 1
  shard.write_bytes(content)
  code, out, err = btr('export-cache', 'verify', '--cache', path)
  assert code == 2 and 'Traceback' not in err
  (problem,) = json.loads(out.splitlines()[-1])['problems']
  assert 'bits' in problem


def last_json_of(result):
  code, out, err = result
  assert code == 0, err
  return json.loads(out.splitlines()[-1])


def test_ask_needs_the_cache_unless_it_may_build(
  btr, last_json, tiny_family, tmp_path
):
  path = tmp_path / 'cache'
  ask = ('ask', '--reader', tiny_family, '--cache', path, 'Capital of Peru?')
  code, out, err = btr(*ask)
  assert code == 2 and not out
  assert 'btr export-cache build' in err and str(path) in err
  record = last_json(*ask, '--build')
  (answer,) = record['answers']
  assert record['system'] == 'binary-residual'
  assert answer['question'] == 'Capital of Peru?'
  assert answer['passages'][0]['title'].startswith('Peru')
  assert len(answer['passages']) == 4
  seconds = answer['seconds']
  assert set(seconds) == {'retrieve', 'look_up', 'encode', 'decode', 'total'}
  assert all(value > 0 for value in seconds.values())
  # The second time it is there.
  assert last_json(*ask)['answers'][0]['answer'] == answer['answer']


def test_ask_shows_titles_and_parts(btr, tiny_family):
  code, out, _ = btr(
    'ask', '--reader', tiny_family, '--mode', 'joint', 'The coast of Chile?'
  )
  assert code == 0
  for part in ('Chile: Geography', 'retrieve', 'look up', 'encode', 'decode'):
    assert part in out


def test_ask_a_corpus_of_ones_own(last_json, tiny_family, tmp_path):
  path = tmp_path / 'mine.jsonl'
  records.write_passages(
    path,
    [
      records.Passage('a', 'Tea', 'Green tea is brewed at 80 degrees.'),
      records.Passage('b', 'Coffee', 'Coffee is brewed at 95 degrees.'),
    ],
  )
  record = last_json(
    'ask',
    '--reader',
    tiny_family,
    '--corpus',
    path,
    '--build',
    'How hot is green tea?',
  )
  assert record['answers'][0]['passages'][0]['title'] == 'Tea'


def test_a_long_question_warns(btr, tiny_family):
  question = 'and what about ' * 30 + 'Peru?'
  code, _, err = btr(
    'ask', '--reader', tiny_family, '--mode', 'joint', question
  )
  assert code == 0
  # Behind a line about the index, where no other test has built it.
  assert '\nwarning: The question' in f'\n{err}'


def test_a_cache_of_another_model_is_refused(btr, tiny_family, tmp_path):
  path = tmp_path / 'cache'
  build = ('export-cache', 'build', '--reader', tiny_family, '--cache', path)
  assert btr(*build)[0] == 0
  ask = ('ask', '--reader', tiny_family, '--cache', path, 'Who?')
  code, _, err = btr(*ask, '--codec', 'calibrated', '--build')
  assert code == 2
  assert 'model: expected' in err and 'codec: expected' in err
  assert "found 'residual" in err
  assert 'Traceback' not in err


def test_evaluate_all(last_json, tiny_family, tmp_path):
  output, plot = tmp_path / 'out' / 'record.json', tmp_path / 'plot.png'
  record = last_json(
    'evaluate',
    '--reader',
    tiny_family,
    '--limit',
    '5',
    '--seeds',
    '0,1',
    '--speed-questions',
    '2',
    '--repeats',
    '2',
    '--build',
    '--output',
    output,
    '--plot',
    plot,
  )
  rows = {row['name']: row for row in record['modes']}
  assert list(rows) == [
    'joint',
    'joint-absorbed',
    'decomposed',
    'decomposed-cached',
    'binary-calibrated',
    'binary-residual',
  ]
  assert record['num_questions'] == 5 and record['seeds'] == [0, 1]
  for row in rows.values():
    assert 0 <= row['em']['mean'] <= row['f1']['mean'] <= 100
    assert len(row['em']['by_sample']) == 2
    assert row['speed']['questions_per_second']['median'] > 0
    cached = row['codec'] is not None
    assert (row['bytes_per_token'] > 0) == cached
  assert rows['joint']['speed']['speedup']['median'] == 1
  size = rows['decomposed-cached']['bytes_per_token']
  assert size > 2 * 32 > rows['binary-residual']['bytes_per_token']
  # Recall by hand: the passage with the capital always stands first.
  assert record['recall'] == {'1': 100.0, '4': 100.0}
  assert record['environment']['cpu']
  assert json.loads(output.read_text()) == record
  assert plot.read_bytes().startswith(b'\x89PNG')


def test_evaluate_one_mode_without_the_clock(last_json, tiny_family):
  record = last_json(
    'evaluate',
    '--reader',
    tiny_family,
    '--mode',
    'joint',
    '--limit',
    'all',
    '--repeats',
    '0',
    '--batch',
    '4',
    '--int8-products',
  )
  row, rounded = record['modes']
  assert row['name'] == 'joint' and row['speed'] is None
  assert rounded['name'] == 'joint-int8-products'
  assert rounded['int8_products'] and not row['int8_products']
  assert record['num_questions'] == 12 and record['batch_size'] == 4
  assert record['retrieval']['seconds_per_question'] is None


@pytest.mark.slow
def test_demo(last_json, tiny_family, tmp_path):
  record = last_json(
    'demo',
    '--reader',
    tiny_family,
    '--limit',
    '3',
    '--repeats',
    '1',
    '--output',
    tmp_path,
  )
  assert len(record['evaluation']) == 6
  assert len(record['answers']) == 3
  assert (tmp_path / 'evaluation.png').stat().st_size > 10_000
  assert (tmp_path / 'evaluation.json').exists()


@pytest.mark.parametrize(
  ('argv', 'message'),
  [
    (['ask', '  '], 'is empty'),
    (['ask', '--mode', 'fast', 'Who?'], "--mode is 'fast'; expected one of"),
    (['ask', '--mode', 'all', 'Who?'], 'btr evaluate'),
    (['ask', '--codec', 'zip', 'Who?'], "--codec is 'zip'; expected one of"),
    (
      ['ask', '--mode', 'joint', '--codec', 'residual', 'Who?'],
      'no meaning in mode joint',
    ),
    (
      ['ask', '--mode', 'joint', '--cache', 'x', 'Who?'],
      '--cache x has no meaning',
    ),
    (['ask', '--corpus', 'nowhere.jsonl', 'Who?'], 'nowhere.jsonl'),
    (['evaluate', '--split', 'dev'], "'dev'"),
    (['evaluate', '--questions', 'nowhere.jsonl'], 'nowhere.jsonl'),
    (['evaluate', '--repeats', '0', '--plot', 'x.png'], '--plot'),
    (['inspect-cache', 'nowhere'], 'nowhere'),
    (['export-cache', 'verify', '--cache', 'nowhere'], 'nowhere'),
  ],
)
def test_bad_input_is_one_message(argv, message, btr, tiny_family):
  if argv[0] in ('ask', 'evaluate'):
    argv = [argv[0], '--reader', tiny_family, *argv[1:]]
  code, out, err = btr(*argv)
  assert code == 2
  assert not out
  assert err.startswith('error: ') and message in err
  assert 'Traceback' not in err


@pytest.mark.parametrize('command', ['ask', 'evaluate', 'demo'])
def test_a_missing_reader_is_named(command, btr):
  argv = [command, '--reader', 'nowhere']
  code, _, err = btr(*argv, *(['Who?'] if command == 'ask' else []))
  assert code == 2
  assert '--reader nowhere: no such folder' in err


def test_the_missing_shipped_reader_is_explained(btr, monkeypatch):
  from btr_jax.tools import systems

  monkeypatch.setattr(systems, 'SHIPPED', 'assets/absent')
  code, _, err = btr('ask', 'Who?')
  assert code == 2
  assert 'ships with btr_jax is missing' in err and '--reader' in err


def test_the_factbook_is_not_prepared_behind_ones_back(
  btr, monkeypatch, tiny_family, tmp_path
):
  monkeypatch.setenv('BTR_DATA_DIR', str(tmp_path))
  code, _, err = btr('ask', '--reader', tiny_family, 'Who?')
  assert code == 2
  assert 'btr prepare-corpus factbook' in err
  assert not list(tmp_path.iterdir())


def test_a_corpus_line_without_text(btr, tiny_family, tmp_path):
  path = tmp_path / 'corpus.jsonl'
  path.write_text('{"id": "a", "title": "t", "text": "x"}\n{"id": "b"}\n')
  code, _, err = btr('ask', '--reader', tiny_family, '--corpus', path, 'Who?')
  assert code == 2
  assert 'line 2' in err and 'text' in err


def test_a_damaged_reader_is_refused(btr, tiny_family, tmp_path):
  import shutil

  family = tmp_path / 'family'
  shutil.copytree(tiny_family, family)
  weights = family / 'residual' / 'model.safetensors'
  weights.write_bytes(weights.read_bytes()[:100])
  code, _, err = btr('ask', '--reader', family, 'Who?')
  assert code == 2
  assert 'model.safetensors' in err and 'Traceback' not in err


def test_the_installed_command(repository):
  """`btr` as a process: what the console script runs."""
  result = subprocess.run(
    [sys.executable, '-m', 'btr_jax.tools.main', 'evalute'],
    capture_output=True,
    text=True,
    timeout=60,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
    cwd=repository.parent,
  )
  assert result.returncode == 2
  assert "did you mean 'evaluate'" in result.stderr


def test_convert_to_hugging_face_and_back(last_json, tiny_family, tmp_path):
  joint, theirs = tiny_family / 'joint', tmp_path / 'theirs'
  record = last_json('convert', joint, theirs, '--to', 'huggingface')
  assert record['tensors'] == 61 and record['left_out'] == {}
  last_json('convert', theirs, tmp_path / 'back')
  weights = 'model.safetensors'
  assert (tmp_path / 'back' / weights).read_bytes() == (
    joint / weights
  ).read_bytes()
