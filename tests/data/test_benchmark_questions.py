"""The public formats of each benchmark, and what is wrong in lines."""

from __future__ import annotations

import json

import pytest

from btr_jax.data.benchmarks import mmlu_subjects, questions, table
from btr_jax.data.problems import Problems


def read(name, path, strict=False):
  found = Problems(str(path), strict)
  records = [
    record
    for _, record in questions.iterate_questions(
      table.benchmark(name), path, found
    )
  ]
  return records, found


def lines(tmp_path, *values, name='q.jsonl'):
  path = tmp_path / name
  path.write_text('\n'.join(json.dumps(value) for value in values))
  return path


def places(found):
  return found.to_dict()['places']


@pytest.mark.parametrize(
  ('value', 'answers'),
  [
    ({'question': 'who', 'answer': ['a', 'b']}, ('a', 'b')),  # NQ-open
    ({'question': 'who', 'answers': ['a', ' a ', '']}, ('a',)),  # DPR
    ({'question': 'who', 'answers': ['a', 'b'], 'target': 'b'}, ('b', 'a')),
    ({'input': 'who', 'output': [{'answer': 'a'}, {}]}, ('a',)),  # KILT
    ({'question': 'who', 'answers': {'text': ['a', 'a']}}, ('a',)),
    ({'question': 'who', 'answer': 7}, ('7',)),
  ],
)
def test_questions_with_answers(tmp_path, value, answers):
  (record,), _ = read('nq', lines(tmp_path, value))
  assert (record.id, record.question, record.answers) == ('0', 'who', answers)


def test_rows_of_dpr(tmp_path):
  path = tmp_path / 'nq.qa.csv'
  path.write_text("who sings\t['Linda Davis', \"d'A\"]\nwhen\t\"['14']\"\n")
  records, _ = read('nq', path)
  assert [record.answers for record in records] == [
    ('Linda Davis', "d'A"),
    ('14',),
  ]


def test_rows_with_a_header(tmp_path):
  path = tmp_path / 'q.csv'
  path.write_text('id,question,answer\nx,"who, then",a\n')
  (record,), _ = read('webquestions', path)
  assert (record.id, record.question, record.answers) == (
    'x',
    'who, then',
    ('a',),
  )


def test_document_of_triviaqa(tmp_path):
  question = {
    'QuestionId': 'tc_1',
    'Question': 'Which?',
    'Answer': {'Value': 'Sunset Boulevard', 'Aliases': ['Sunset Blvd', 'SB']},
  }
  path = tmp_path / 'unfiltered.json'
  path.write_text(json.dumps({'Data': [question], 'Domain': 'x'}, indent=1))
  (record,), _ = read('triviaqa', path)
  assert record.id == 'tc_1'
  assert record.answers == ('Sunset Boulevard', 'Sunset Blvd', 'SB')


def test_lists_of_webquestions(tmp_path):
  path = tmp_path / 'webquestions.json'
  target = '(list (description "Jazmyn \\"J\\" Bieber") (description Jaxon))'
  path.write_text(
    json.dumps([{'utterance': 'what?', 'targetValue': target, 'url': 'u'}])
  )
  (record,), _ = read('webquestions', path)
  assert record.answers == ('Jazmyn "J" Bieber', 'Jaxon')


def test_document_of_squad(tmp_path):
  qas = [
    {'id': 'a', 'question': 'q?', 'answers': [{'text': 'x'}, {'text': 'y'}]},
    {'id': 'b', 'question': 'r?', 'answers': [], 'is_impossible': True},
  ]
  article = {'title': 'T', 'paragraphs': [{'context': 'c', 'qas': qas}]}
  path = tmp_path / 'dev.json'
  path.write_text(json.dumps({'version': '2.0', 'data': [article]}))
  (record,), found = read('squad_open', path)
  assert (record.id, record.answers) == ('a', ('x', 'y'))
  assert record.extra == {'article': 'T'}
  assert record.contexts == ()
  assert places(found) == {'unanswerable question': ['question 2']}


@pytest.mark.parametrize(
  ('label', 'word'),
  [
    ('SUPPORTS', 'true'),
    ('refutes', 'false'),
    ('NOT ENOUGH INFO', 'maybe'),
    ('NEI', 'maybe'),
    ('false', 'false'),
  ],
)
def test_labels_of_fever(tmp_path, label, word):
  (record,), _ = read('fever', lines(tmp_path, {'claim': 'c', 'label': label}))
  assert record.question == 'c' and record.answers == (word,)


def test_fever_of_kilt(tmp_path):
  value = {'id': 'k', 'input': 'c', 'output': [{'answer': 'REFUTES'}]}
  (record,), _ = read('fever', lines(tmp_path, value))
  assert record.extra == {'label': 'REFUTES'}


def test_mmlu_as_csv_by_subject(tmp_path):
  (tmp_path / 'virology_test.csv').write_text('q2?,w,x,y,z,D\n')
  (tmp_path / 'anatomy_test.csv').write_text('"a\nb, c?",1,2,"3, 4",4,C\n')
  (tmp_path / 'README.txt').write_text('not data')
  records, found = read('mmlu', tmp_path)
  assert not found.summary()
  assert [r.extra['subject'] for r in records] == ['anatomy', 'virology']
  assert records[0].question == 'a b, c? options: (A) 1 (B) 2 (C) 3, 4 (D) 4'
  assert records[0].answers == ('C',)
  assert records[0].extra['choices'] == ['1', '2', '3, 4', '4']
  assert [r.id for r in records] == ['0', '1']


@pytest.mark.parametrize('answer', ['B', 'b ', 1, '1', ['B']])
@pytest.mark.parametrize('key', ['choices', 'options', None])
def test_mmlu_as_objects(tmp_path, answer, key):
  choices = ['w', 'x', 'y', 'z']
  value = {'question': 'q', 'answer': answer}
  value |= {key: choices} if key else dict(zip('ABCD', choices, strict=True))
  (record,), _ = read('mmlu', lines(tmp_path, value))
  assert record.answers == ('B',)
  assert record.extra['subject'] == mmlu_subjects.AUXILIARY


def test_mmlu_has_57_subjects_in_four_groups():
  assert len(mmlu_subjects.GROUPS) == 57
  counts = [
    list(mmlu_subjects.GROUPS.values()).count(g)
    for g in ('stem', 'humanities', 'social_sciences', 'other')
  ]
  assert counts == [18, 13, 12, 14]  # Hendrycks et al., table of subjects


@pytest.mark.parametrize(
  ('name', 'value', 'kind'),
  [
    ('nq', {'question': 'q', 'answers': []}, 'empty answer'),
    ('nq', {'question': 'q', 'answers': ['', ' ']}, 'empty answer'),
    ('nq', {'question': ' ', 'answers': ['a']}, 'empty question'),
    ('nq', {'answers': ['a']}, 'no question'),
    ('nq', {'question': 3, 'answers': ['a']}, 'question is no text'),
    ('nq', ['who', 'a', 'b'], 'wrong number of columns'),
    ('nq', 'text', 'no object'),
    ('fever', {'claim': 'c', 'label': 'MAYBE NOT'}, 'unknown label'),
    ('fever', {'claim': 'c'}, 'no label'),
    ('mmlu', {'question': 'q', 'choices': list('wxyz'), 'answer': 'E'},
     'unknown label'),
    ('mmlu', {'question': 'q', 'choices': list('wxyz'), 'answer': ''},
     'empty answer'),
    ('mmlu', {'question': 'q', 'choices': list('wxy'), 'answer': 'A'},
     'not four choices'),
    ('mmlu', {'question': 'q', 'choices': ['w', '', 'y', 'z'], 'answer': 'A'},
     'empty choice'),
    ('mmlu', {'question': 'q', 'choices': list('wxyz'), 'answer': 'A',
              'subject': 'magic'}, 'unknown subject'),
  ],
)  # fmt: skip
def test_bad_lines_are_left_out_and_named(tmp_path, name, value, kind):
  good = {
    'nq': {'question': 'q', 'answers': ['a']},
    'fever': {'claim': 'c', 'label': 'REFUTES'},
    'mmlu': {'question': 'q', 'choices': list('wxyz'), 'answer': 'A'},
  }[name]
  path = lines(tmp_path, good, value, good)
  records, found = read(name, path)
  # Numbers are those of the file, so that rows of other files still fit.
  assert [record.id for record in records] == ['0', '2']
  assert places(found) == {kind: ['line 2']}
  with pytest.raises(ValueError, match='q.jsonl, line 2: '):
    read(name, path, strict=True)


def test_duplicate_ids(tmp_path):
  value = {'id': 5, 'claim': 'c', 'label': 'SUPPORTS'}
  records, found = read('fever', lines(tmp_path, value, {**value, 'id': '5'}))
  assert len(records) == 1
  assert places(found) == {'duplicate id': ['line 2']}
  assert 'stands on line 1 already' in found.summary()[0]


def test_wrong_columns_of_csv(tmp_path):
  path = tmp_path / 'anatomy_test.csv'
  path.write_text('q?,1,2,3,4,C\nq?,1,2,3,C\n')
  records, found = read('mmlu', path)
  assert len(records) == 1
  (summary,) = found.summary()
  assert '5 columns, expected 6 (question, A, B, C, D, answer)' in summary


def test_bad_lines_of_a_folder_are_named_with_their_file(tmp_path):
  (tmp_path / 'anatomy_test.csv').write_text('q?,1,2,3,4,C\n')
  (tmp_path / 'virology_test.csv').write_bytes(b'\xff\nq?,1,2,3,4,X\n')
  records, found = read('mmlu', tmp_path)
  assert len(records) == 1
  assert places(found) == {
    'encoding': ['virology_test.csv, line 1'],
    'unknown label': ['virology_test.csv, line 2'],
  }
  with pytest.raises(ValueError, match='virology_test.csv, line 1'):
    read('mmlu', tmp_path, strict=True)


def test_folder_without_data(tmp_path):
  with pytest.raises(ValueError, match='holds no data'):
    read('mmlu', tmp_path)


def test_unknown_benchmark():
  with pytest.raises(ValueError, match="'nqq'; expected one of nq, triviaqa"):
    table.benchmark('nqq')


# Official counts, told in the README of the data.
REAL = {
  ('nq', 'questions/nq_open/google.NQ-open.dev.jsonl.gz'): 3610,
  ('nq', 'questions/nq_open/test.jsonl.gz'): 3610,
  ('triviaqa', 'questions/triviaqa/test.jsonl.gz'): 11313,
  ('webquestions', 'questions/webquestions/test.jsonl.gz'): 2032,
  ('fever', 'questions/fever/paper_dev.jsonl.gz'): 9999,
  ('mmlu', 'questions/mmlu/test.jsonl.gz'): 14042,
  ('squad_open', 'squad/dev-v1.1.rebuilt.json.gz'): 10570,
}


@pytest.mark.parametrize(('name', 'path'), REAL)
def test_real_files(shared_data, name, path):
  records, found = read(name, shared_data / path)
  assert len(records) == REAL[name, path]
  assert not found.summary()
  if name == 'mmlu':
    assert {r.extra['subject'] for r in records} == set(mmlu_subjects.GROUPS)
  if name == 'fever':
    words = [record.answers[0] for record in records]
    assert {word: words.count(word) for word in words} == {
      'true': 3333,
      'false': 3333,
      'maybe': 3333,
    }
