"""Questions out of JSONL, CSV and TSV."""

import gzip
import lzma

import pytest

from btr_jax.data import question_files
from btr_jax.data.benchmarks import questions, table
from btr_jax.data.problems import Problems


def read(path, text, pack=bytes):
  path.write_bytes(pack(text.encode()))
  problems = Problems(path)
  found = list(question_files.iterate_questions(path, problems))
  return found, problems


@pytest.mark.parametrize(
  ('name', 'pack'),
  [
    ('q.jsonl', bytes),
    ('q.jsonl.gz', gzip.compress),
    ('q.jsonl.xz', lzma.compress),
  ],
)
def test_json_lines(name, pack, tmp_path):
  text = (
    '{"question": "who?", "answers": ["A", "B"], "ctxs": [1], "set": "x"}\n'
    '{"question": "where?", "answer": "C", "id": 7}\n'
    '{"question": "why?"}\n'
  )
  found, problems = read(tmp_path / name, text, pack)
  assert [(r.id, r.question, r.answers) for r in found] == [
    ('0', 'who?', ('A', 'B')),
    ('7', 'where?', ('C',)),
    ('2', 'why?', ()),
  ]
  assert found[0].extra == {'set': 'x'} and found[0].contexts == ()
  assert problems.total == 0


@pytest.mark.parametrize(
  'text',
  [
    'who?\t["A", "it\'s"]\nwhere?\tC\n',
    "question\tanswers\nwho?\t['A', \"it's\"]\nwhere?\tC\n",
  ],
)
def test_tables(text, tmp_path):
  found, problems = read(tmp_path / 'q.tsv', text)
  assert [(r.question, r.answers) for r in found] == [
    ('who?', ('A', "it's")),
    ('where?', ('C',)),
  ]
  assert problems.total == 0


def test_comma_separated_with_columns_of_its_own(tmp_path):
  text = 'id,question,answer\nq1,"who, me?","[""A""]"\nq2,where?,\n'
  found, problems = read(tmp_path / 'q.csv', text)
  assert [(r.id, r.question, r.answers) for r in found] == [
    ('q1', 'who, me?', ('A',)),
    ('q2', 'where?', ()),
  ]


@pytest.mark.parametrize(
  ('name', 'text'),
  [
    ('q.tsv', 'question\tanswers\nwho?\tA\nwhere?\tB\n'),
    ('q.tsv', 'Question\tAnswer\nwho?\tA\nwhere?\tB\n'),
    ('q.tsv', 'who?\tA\nwhere?\tB\n'),
    ('q.csv', 'set,question,gold,answer\nx,"who,\nme?",1,A\ny,where?,2,B\n'),
    ('q.qa.csv', "who?\t['A']\n\nwhere?\t['B']\n"),
    ('q.tsv', 'one\ttwo\tthree\nwho?\tA\nwhere?\tB\n'),
    ('q.jsonl', 'nonsense\n{"question": "who?", "answer": "A"}\n'),
    ('q.jsonl', '\n{"question": "who?", "answer": "A"}\n\n'),
    ('q.json', '[{"question": "who?", "answer": "A"}]'),
    ('q.json', '{"data": [{"paragraphs": [{"qas": [{"question": "who?", '
     '"answers": [{"text": "A"}]}]}]}]}'),
  ],
)  # fmt: skip
def test_numbers_are_those_of_the_tasks(name, text, tmp_path):
  """What is found for a question without id must not reach its neighbour."""
  found, _ = read(tmp_path / name, text)
  expected = [
    record
    for _, record in questions.iterate_questions(
      table.benchmark('nq'), tmp_path / name, Problems()
    )
  ]
  assert [(r.id, r.question, r.answers) for r in found] == [
    (r.id, r.question, r.answers) for r in expected
  ]
  first = '1' if text.startswith(('one', 'nonsense')) else '0'
  assert found[0].id == first and found[0].question.startswith('who')


def test_claims(tmp_path):
  text = '{"id": 75397, "claim": "It is.", "label": "SUPPORTS"}\n'
  (record,), _ = read(tmp_path / 'q.jsonl', text)
  assert (record.id, record.question, record.answers) == ('75397', 'It is.', ())
  assert record.extra == {'label': 'SUPPORTS'}


@pytest.mark.parametrize(
  ('name', 'line', 'kind'),
  [
    ('q.jsonl', 'nonsense', 'not JSON'),
    ('q.jsonl', '["a", "b", "c"]', 'wrong number of columns'),
    ('q.jsonl', '{"answers": ["a"]}', 'no question'),
    ('q.jsonl', '{"question": " "}', 'empty question'),
    ('q.jsonl', '{"question": "x", "answers": {"a": 1}}', 'answers'),
    ('q.jsonl', '{"question": "x", "id": [1]}', 'id'),
    ('q.jsonl', '{"question": "x", "id": 0}', 'duplicate id'),
    ('q.tsv', 'a\tb\tc', 'wrong number of columns'),
  ],
)
def test_wrong_lines_are_named(name, line, kind, tmp_path):
  good = '{"question": "good"}' if name.endswith('jsonl') else 'good\tA'
  found, problems = read(tmp_path / name, f'{good}\n{line}\n')
  assert [r.question for r in found] == ['good']
  assert problems.counts == {kind: 1}
  assert problems.first[0].startswith(f'{tmp_path / name}, line 2: {kind}: ')
  strict = question_files.iterate_questions(
    tmp_path / name, Problems(tmp_path / name, strict=True)
  )
  with pytest.raises(ValueError, match=f'line 2: {kind}'):
    list(strict)


def test_another_kind_of_file(tmp_path):
  with pytest.raises(ValueError, match='xlsx: unknown format; expected a name'):
    list(question_files.iterate_questions(tmp_path / 'q.xlsx', Problems()))


def test_only_the_first_problems_are_kept():
  written = []
  problems = Problems(write=written.append)
  for i in range(50):
    problems.leave_out('kind', f'line {i}', 'message')
  assert problems.total == len(written) == 50 and len(problems.first) == 20
