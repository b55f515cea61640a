"""prepare-corpus, retrieve and ask on files of a user's own."""

from __future__ import annotations

import gzip
import json
import re

import pytest

from btr_jax.data import records


@pytest.fixture
def documents(tmp_path):
  folder = tmp_path / 'my documents'
  folder.mkdir()
  (folder / 'tea.md').write_text('# Tea\nGreen tea is brewed at 80 degrees.')
  (folder / 'coffee.txt').write_text('Coffee is brewed at 95 degrees.')
  (folder / 'latin.txt').write_bytes(b'caf\xe9')
  return folder


@pytest.fixture
def questions(tmp_path):
  path = tmp_path / 'questions.jsonl'
  path.write_text(
    '{"question": "How hot is green tea?", "answers": ["80 degrees"]}\n'
    'nonsense\n'
    '{"question": "How hot is coffee?", "answers": ["95 degrees", "hot"]}\n'
    '{"question": "xyzzy?", "answers": ["x"]}\n'
    '{"question": "How hot is tea?"}\n'
  )
  return path


def test_prepare_own_files(btr, last_json, documents, tmp_path):
  output = tmp_path / 'out'
  prepare = ('prepare-corpus', documents, '--output', output)
  record = last_json(*prepare, '--record', tmp_path / 'record.json')
  assert record['passages'] == 2 and record['new']
  assert record['problems'] == {'not text': 1}
  assert record['peak_memory_bytes'] > 1e6
  saved = json.loads((tmp_path / 'record.json').read_text())
  assert saved['environment']['cpu'] and saved['passages'] == 2
  found = records.read_passages(output / 'passages.jsonl')
  assert [(p.id, p.title) for p in found] == [
    ('coffee.txt#0', 'coffee'),
    ('tea.md#0', 'Tea'),
  ]
  assert not last_json(*prepare)['new']
  code, out, err = btr(*prepare, '--strict')
  assert code == 2 and not out and 'latin.txt' in err
  code, _, err = btr(*prepare, '--encoding', 'latin-1')
  assert code == 2 and '--force' in err
  record = last_json(*prepare, '--encoding', 'latin-1', '--force')
  assert record['passages'] == 3 and record['problems'] == {}


def test_what_was_left_out_is_shown(btr, documents, tmp_path):
  _, out, err = btr('prepare-corpus', documents, '--output', tmp_path / 'out')
  assert 'left out: not text' in out
  assert 'latin.txt: not text: not utf-8 (byte 0xe9' in err


def test_retrieve_with_recall(btr, last_json, documents, questions, tmp_path):
  output = tmp_path / 'found.jsonl.gz'
  retrieve = (
    'retrieve', '--corpus', documents, '--questions', questions, '--output',
    output,
  )  # fmt: skip
  record = last_json(*retrieve, '--record', tmp_path / 'record.json')
  assert record['questions'] == 4 and record['problems'] == {'not JSON': 1}
  assert record['without_answers'] == 1 and record['without_passages'] == 1
  # Two of the three that can be judged have their answer in the first passage.
  assert record['recall'] == {k: 66.67 for k in ('1', '5', '20', '40')}
  assert json.loads((tmp_path / 'record.json').read_text())['environment']
  lines = gzip.decompress(output.read_bytes()).decode().splitlines()
  first = records.record_from_json(json.loads(lines[0]))
  assert first.id == '0' and first.contexts[0].id == 'tea.md#0'
  assert [c.has_answer for c in first.contexts][0] is True
  assert json.loads(lines[2])['ctxs'] == []
  before = output.read_bytes()
  code, out, err = btr(*retrieve, '--strict')
  assert code == 2 and not out and 'line 2: not JSON' in err
  assert output.read_bytes() == before
  assert last_json(*retrieve, '--limit', '2')['questions'] == 2


@pytest.mark.parametrize('index', ['exact', 'binary'])
@pytest.mark.parametrize('method', ['dense', 'hybrid'])
def test_retrieve_by_embeddings(
  method, index, last_json, tiny_encoder_folder, documents, questions, tmp_path
):
  pytest.importorskip('faiss')
  pytest.importorskip('tokenizers')
  output = tmp_path / 'found.jsonl'
  record = last_json(
    'retrieve', '--corpus', documents, '--questions', questions, '--output',
    output, '--method', method, '--index', index, '--encoder',
    tiny_encoder_folder, '--passages', '2',
  )  # fmt: skip
  assert record['method'] == f'{method} ({index})'
  assert record['without_passages'] == 0
  assert set(record['recall']) == {'1'}
  found = records.read_records(output)
  assert [len(r.contexts) for r in found] == [2, 2, 2, 2]


def test_benchmark(
  last_json, btr, tiny_encoder_folder, documents, questions, tmp_path
):
  pytest.importorskip('faiss')
  pytest.importorskip('tokenizers')
  corpus = tmp_path / 'p.tsv'
  lines = [f'{i}\tthe coast of number {i} is long\tT{i}' for i in range(300)]
  corpus.write_text('id\ttext\ttitle\n' + '\n'.join(lines) + '\n')
  _, _, err = btr(
    'retrieve', '--corpus', corpus, '--questions', questions, '--output',
    tmp_path / 'x.jsonl', '--method', 'dense', '--encoder',
    tiny_encoder_folder,
  )  # fmt: skip
  (folder,) = re.findall(r'embedding the passages into (.*)', err)
  record = last_json(
    'benchmark-retrieval', '--corpus', corpus, '--questions', questions,
    '--embeddings', folder, '--repeats', '2', '--hits', '5',
    '--record', tmp_path / 'record.json',
  )  # fmt: skip
  assert record['passages'] == record['embeddings'] == 300
  assert len(record['rows']) == 7
  for row in record['rows']:
    assert row['ours_seconds'] > 0 and row['theirs_seconds'] > 0
    assert row['ratio_min'] <= row['ratio'] <= row['ratio_max']
  assert json.loads((tmp_path / 'record.json').read_text())['environment']


def test_ask_a_folder(btr, last_json, tiny_family, documents):
  ask = ('ask', '--reader', tiny_family, '--corpus', documents)
  record = last_json(*ask, 'How hot is green tea?')
  assert record['answers'][0]['passages'][0]['id'] == 'tea.md#0'
  code, out, err = btr(*ask, 'How hot is coffee?')
  assert code == 0 and 'coffee.txt#0' in out
  # What was made for the first question serves the second.
  for word in ('preparing', 'building'):
    assert word not in err
  assert 'left out' in err
  (documents / 'mate.txt').write_text('Mate is brewed at 75 degrees.')
  code, out, err = btr(*ask, 'How hot is mate?')
  assert code == 0 and 'mate.txt#0' in out
  assert 'changed since it was prepared' in err


def test_ask_a_prepared_folder_and_a_table(
  btr, last_json, tiny_family, tmp_path
):
  table = tmp_path / 'p.tsv'
  table.write_text('id\ttext\ttitle\n7\tGreen tea is brewed.\tTea\n')
  last_json('prepare-corpus', table, '--output', tmp_path / 'out')
  for corpus in (tmp_path / 'out', table):
    record = last_json(
      'ask', '--reader', tiny_family, '--build', '--corpus', corpus, 'Tea?'
    )
    assert record['answers'][0]['passages'] == [{'id': '7', 'title': 'Tea'}]


@pytest.mark.parametrize(
  ('argv', 'message'),
  [
    (['prepare-corpus', 'nowhere', '--output', 'x'], 'no file or folder now'),
    (['prepare-corpus', '{docs}'], '--output FOLDER'),
    (['prepare-corpus', 'factbook', '{docs}'], 'prepared by itself'),
    (['prepare-corpus', '{docs}', '--output', '{docs}'], 'no prepared corpus'),
    (
      ['prepare-corpus', '{docs}', '--output', 'x', '--encoding', 'klingon'],
      "'klingon'",
    ),
    (
      ['retrieve', '--corpus', '{docs}', '--questions', 'no.jsonl',
       '--output', 'x'],
      'no.jsonl',
    ),
    (
      ['retrieve', '--corpus', 'nowhere', '--questions', '{questions}',
       '--output', 'x'],
      '--corpus nowhere: expected',
    ),
    (
      ['retrieve', '--corpus', '{docs}', '--questions', '{questions}',
       '--output', 'x', '--method', 'dense', '--encoder', 'nowhere'],
      '--encoder nowhere: no such folder',
    ),
  ],
)  # fmt: skip
def test_bad_input_is_one_message(argv, message, btr, documents, questions):
  if '--encoder' in argv:
    pytest.importorskip('faiss')
  argv = [
    part.replace('{docs}', str(documents)).replace(
      '{questions}', str(questions)
    )
    for part in argv
  ]
  code, out, err = btr(*argv)
  assert code == 2 and not out
  assert message in err and 'Traceback' not in err
