"""JSON Lines of questions and passages."""

import json

import pytest

from btr_jax.data import records

PASSAGES = [
  records.Passage('p0', 'Peru', 'Capital: Lima.'),
  records.Passage('p1', 'Côte', 'two\nlines'),
]
RECORD = records.Record(
  id='q0',
  question='What?',
  answers=('Lima', 'City of Lima'),
  contexts=(
    records.Context('p0', 'Peru', 'Capital: Lima.', 3.5, True),
    records.Context('p1', 'Côte', 'two\nlines', 1.0, None),
  ),
  extra={'field': 'capital', 'gold': 'p0'},
)


def test_records_survive_a_round_trip(tmp_path):
  path = tmp_path / 'q.jsonl'
  assert records.write_records(path, [RECORD, RECORD]) == 2
  assert records.read_records(path) == [RECORD, RECORD]
  keys = json.loads(path.read_text().splitlines()[0])
  assert set(keys) == {'id', 'question', 'answers', 'field', 'gold', 'ctxs'}


def test_contexts_by_id_are_looked_up_beside_the_file(tmp_path):
  records.write_passages(tmp_path / 'passages.jsonl', PASSAGES)
  path = tmp_path / 'q.jsonl'
  records.write_records(path, [RECORD], with_texts=False)
  assert 'Capital' not in path.read_text()
  assert records.read_records(path) == [RECORD]
  given = list(records.iterate_records(path, {p.id: p for p in PASSAGES}))
  assert given == [RECORD]


def test_context_by_id_that_the_corpus_lacks(tmp_path):
  records.write_passages(tmp_path / 'passages.jsonl', PASSAGES[:1])
  path = tmp_path / 'q.jsonl'
  records.write_records(path, [RECORD], with_texts=False)
  with pytest.raises(ValueError, match=r"line 1, ctxs\[1\].*'p1'"):
    records.read_records(path)


def test_context_by_id_without_corpus(tmp_path):
  path = tmp_path / 'q.jsonl'
  records.write_records(path, [RECORD], with_texts=False)
  with pytest.raises(ValueError, match='"text" is missing'):
    records.read_records(path)


def test_files_of_dpr_are_read(tmp_path):
  """DPR leaves out ids and writes scores as strings, Atlas as numbers."""
  path = tmp_path / 'dpr.json'
  line = {
    'question': 'What?',
    'answers': ['a'],
    'ctxs': [
      {'id': 7, 'title': 'T', 'text': 'x', 'score': '81.5', 'has_answer': 1}
    ],
  }
  path.write_text(json.dumps(line) + '\n\n')
  (record,) = records.read_records(path)
  assert record.id == 'What?'
  assert record.contexts == (records.Context('7', 'T', 'x', 81.5, True),)


@pytest.mark.parametrize(
  ('line', 'message'),
  [
    ('{"question": ', 'line 2: not JSON'),
    ('[1, 2]', 'line 2: expected a JSON object, found list'),
    ('{"answers": []}', 'line 2: the key "question" is missing'),
    ('{"question": 3}', 'line 2: "question" must be str, found 3'),
    ('{"question": "q", "answers": [1]}', 'line 2: "answers" must be a list'),
    ('{"question": "q", "ctxs": [1]}', r'line 2, ctxs\[0\]: expected an obj'),
    (
      '{"question": "q", "ctxs": [{"text": "t"}]}',
      r'line 2, ctxs\[0\]: the key "id" is missing',
    ),
  ],
)
def test_errors_name_file_and_line(tmp_path, line, message):
  path = tmp_path / 'bad.jsonl'
  path.write_text('{"question": "q", "answers": []}\n' + line + '\n')
  with pytest.raises(ValueError, match='bad.jsonl, ' + message):
    records.read_records(path)


def test_text_that_is_not_utf8(tmp_path):
  path = tmp_path / 'bad.jsonl'
  path.write_bytes(b'{"question": "\xff"}\n')
  with pytest.raises(ValueError, match='line 1: not JSON'):
    records.read_records(path)


def test_passages_survive_a_round_trip(tmp_path):
  path = tmp_path / 'p.jsonl'
  assert records.write_passages(path, PASSAGES) == 2
  assert records.read_passages(path) == PASSAGES


def test_passage_ids_are_unique(tmp_path):
  path = tmp_path / 'p.jsonl'
  records.write_passages(path, [PASSAGES[0], PASSAGES[0]])
  with pytest.raises(ValueError, match="line 2: the id 'p0' stands on line 1"):
    records.read_passages(path)


def test_a_failed_write_leaves_the_old_file(tmp_path):
  path = tmp_path / 'p.jsonl'
  records.write_passages(path, PASSAGES)

  def broken():
    yield PASSAGES[0]
    raise RuntimeError('no more')

  with pytest.raises(RuntimeError, match='no more'):
    records.write_passages(path, broken())
  assert records.read_passages(path) == PASSAGES
  assert [p.name for p in tmp_path.iterdir()] == ['p.jsonl']
