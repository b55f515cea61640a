"""Results as files."""

import gzip
import json

import pytest

from btr_jax.data import records
from btr_jax.retrieval import results
from btr_jax.retrieval.interface import Hit

PASSAGES = [
  records.Passage('p0', 'Peru', 'Its capital is Lima.'),
  records.Passage('p1', 'Chile', 'Its capital is Santiago.'),
]
QUESTION = records.Record('q', 'Capital of Peru?', ('Lima',), (), {'set': 'x'})


def test_judges_what_has_answers():
  record = results.with_passages(QUESTION, [Hit(1, 2.5), Hit(0, 1.0)], PASSAGES)
  assert [c.id for c in record.contexts] == ['p1', 'p0']
  assert [c.has_answer for c in record.contexts] == [False, True]
  assert record.contexts[0].score == 2.5
  bare = records.Record('q', 'Capital of Peru?', ())
  record = results.with_passages(bare, [Hit(0, 1.0)], PASSAGES)
  assert record.contexts[0].has_answer is None


@pytest.mark.parametrize('name', ['out.jsonl', 'out.jsonl.gz'])
def test_written_in_the_format_of_dpr(name, tmp_path):
  record = results.with_passages(QUESTION, [Hit(0, 1.5)], PASSAGES)
  path = tmp_path / 'new' / name
  assert results.write(path, iter([record, record])) == 2
  data = path.read_bytes()
  text = (gzip.decompress(data) if name.endswith('.gz') else data).decode()
  first, second = map(json.loads, text.splitlines())
  assert first == second == {
    'id': 'q',
    'question': 'Capital of Peru?',
    'answers': ['Lima'],
    'set': 'x',
    'ctxs': [
      {
        'id': 'p0',
        'title': 'Peru',
        'text': 'Its capital is Lima.',
        'score': 1.5,
        'has_answer': True,
      }
    ],
  }  # fmt: skip
  assert records.read_records(path) == [record, record]
  results.write(path, iter([record, record]))
  assert path.read_bytes() == data


@pytest.mark.parametrize('name', ['out.jsonl', 'out.jsonl.gz'])
def test_a_failing_search_leaves_the_old_file(name, tmp_path):
  path = tmp_path / name
  path.write_text('old')

  def failing():
    yield QUESTION
    raise OSError('no')

  with pytest.raises(OSError):
    results.write(path, failing())
  assert path.read_text() == 'old'
  assert [p.name for p in tmp_path.iterdir()] == [name]
