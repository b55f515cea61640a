"""Questions joined with passages, prepared once, and task files."""

from __future__ import annotations

import gzip
import json
import logging
import os

import pytest

from btr_jax.data import records
from btr_jax.data.benchmarks import preparation, table, task_files

QUESTIONS = [
  {'question': f'who is {i}?', 'answer': [f'n{i}']} for i in range(4)
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
  monkeypatch.setenv('BTR_DATA_DIR', str(tmp_path / 'data'))
  monkeypatch.setattr(task_files, '_USED', {})
  write(tmp_path / 'q.jsonl', QUESTIONS)
  rows = [f'{i}\ttext {i}\ttitle {i}\n' for i in range(10)]
  with gzip.open(tmp_path / 'corpus.tsv.gz', 'wt') as file:
    file.write('id\ttext\ttitle\n' + ''.join(rows))
  return tmp_path


def write(path, values):
  path.write_text('\n'.join(json.dumps(value) for value in values) + '\n')
  return str(path)


def prepare(folder, **options):
  out = str(folder / 'out.jsonl')
  given = {'questions': str(folder / 'q.jsonl'), **options}
  report = preparation.prepare(
    preparation.Inputs(given.pop('benchmark', 'nq'), **given), out
  )
  return records.read_records(out), report


def test_passages_that_stand_with_the_questions(folder):
  values = [
    {'ctxs': [{'title': 't', 'text': 'x', 'score': '3.5', 'hasanswer': True}]},
    {'passages': [{'title': 't', 'section': 's', 'text': 'y', 'id': 7}]},
    {'ctxs': [{'wikipedia_title': 'k', 'text': ['p', 'q'], 'id': 'i'}]},
    {'ctxs': []},
  ]
  write(
    folder / 'q.jsonl',
    [q | v for q, v in zip(QUESTIONS, values, strict=True)],
  )
  found, report = prepare(folder)
  assert [r.contexts for r in found] == [
    (records.Context('0-0', 't', 'x', 3.5, True),),
    (records.Context('7', 't: s', 'y'),),
    (records.Context('i', 'k', 'p q'),),
    (),
  ]
  assert (report.questions, report.with_passages) == (4, 3)
  assert 'question without passages (kept): id 3' in report.messages()[0]


def test_training_leaves_questions_without_passages_out(folder):
  write(
    folder / 'q.jsonl',
    [QUESTIONS[0] | {'ctxs': [{'text': 'x'}]}, QUESTIONS[1]],
  )
  found, report = prepare(folder, training=True)
  assert [record.id for record in found] == ['0']
  assert report.problems[0]['left_out'] == {'question without passages': 1}


def test_retrieved_rows_and_a_corpus(folder):
  (folder / 'r.tsv').write_text(
    'qid\tpassage_ids\tscores\thas_answer\n'
    '0\t3,1\t2.5,1.5\t01\n'
    '2\t9\t4\t1\n'
    '1\t5,6\t1.0\t00\n'  # one score for two passages
    '3\t77\t1\t0\n'  # not in the corpus
  )
  found, report = prepare(
    folder,
    passages=str(folder / 'r.tsv'),
    corpus=str(folder / 'corpus.tsv.gz'),
  )
  assert [record.id for record in found] == ['0', '2', '1', '3']
  assert found[0].contexts == (
    records.Context('3', 'title 3', 'text 3', 2.5, False),
    records.Context('1', 'title 1', 'text 1', 1.5, True),
  )
  assert report.with_passages == 2
  (_, passages, _) = report.problems
  assert passages['places'] == {
    'lists of different lengths': ['line 4'],
    'unknown passage': ['line 5'],
  }


def test_retrieved_objects_by_id_or_by_question(folder):
  retrieved = [
    {'id': 'other', 'question': 'WHO is  1?', 'ctxs': [{'text': 'b'}]},
    {'id': '0', 'question': 'ignored', 'ctxs': [{'text': 'a'}] * 60},
    {'id': '99', 'question': 'of another split', 'ctxs': [{'text': 'c'}]},
  ]
  found, report = prepare(folder, passages=write(folder / 'r.jsonl', retrieved))
  assert [(r.id, len(r.contexts)) for r in found] == [
    ('1', 1),
    ('0', 40),  # the paper's number
    ('2', 0),
    ('3', 0),
  ]
  assert report.passages == 41


def test_words_win_over_numbers_that_are_off(folder):
  """A tool that counts a header must not give passages to neighbours."""
  retrieved = [
    {'id': i + 1, 'question': f'who is {i}?', 'ctxs': [{'text': f'text {i}'}]}
    for i in range(4)
  ]
  found, _ = prepare(folder, passages=write(folder / 'r.jsonl', retrieved))
  assert [(r.id, r.contexts[0].text) for r in found] == [
    (str(i), f'text {i}') for i in range(4)
  ]


def test_the_same_words_twice_are_told_apart_by_id(folder):
  twice = [{'id': i, **QUESTIONS[0]} for i in 'ab']
  write(folder / 'q.jsonl', twice)
  retrieved = [
    {'id': q['id'], 'question': q['question'], 'ctxs': [{'text': q['id']}]}
    for q in twice
  ]
  found, _ = prepare(folder, passages=write(folder / 'r.jsonl', retrieved))
  assert [(r.id, r.contexts[0].text) for r in found] == [('a', 'a'), ('b', 'b')]


def test_choices_do_not_hide_a_question_from_its_passages(folder):
  value = {'question': 'why?', 'choices': list('wxyz'), 'answer': 'A'}
  write(folder / 'q.jsonl', [value])
  retrieved = [{'question': 'why?', 'ctxs': [{'text': 'x'}] * 40}]
  found, _ = prepare(
    folder,
    benchmark='mmlu',
    passages=write(folder / 'r.jsonl', retrieved),
  )
  assert len(found[0].contexts) == 30
  assert found[0].question == 'why? options: (A) w (B) x (C) y (D) z'


def test_passages_of_other_questions_are_refused(folder):
  retrieved = [{'id': 'x', 'question': 'other', 'ctxs': [{'text': 'b'}]}]
  with pytest.raises(ValueError, match="None of the questions.*such as '0'"):
    prepare(folder, passages=write(folder / 'r.jsonl', retrieved))
  assert not (folder / 'out.jsonl').exists()


def test_references_need_a_corpus(folder):
  write(folder / 'q.jsonl', [QUESTIONS[0] | {'ctxs': [{'id': 3}]}])
  with pytest.raises(ValueError, match='no question.*no corpus was given'):
    prepare(folder)
  found, _ = prepare(folder, corpus=str(folder / 'corpus.tsv.gz'))
  assert found[0].contexts[0].text == 'text 3'


def test_duplicate_and_broken_passages_of_a_corpus(folder):
  (folder / 'c.tsv').write_text('1\ta\tA\n1\tb\tB\n2\tc\n3\t \tC\n')
  write(folder / 'q.jsonl', [QUESTIONS[0] | {'ctxs': [{'id': 1}]}])
  found, report = prepare(folder, corpus=str(folder / 'c.tsv'))
  assert found[0].contexts[0].text == 'a'
  assert report.problems[1]['left_out'] == {
    'duplicate id': 1,
    'passage without text': 1,
    'wrong number of columns': 1,
  }


@pytest.mark.parametrize('name', table.BENCHMARKS)
def test_missing_file_says_what_it_would_be(folder, name):
  with pytest.raises(FileNotFoundError, match='Expected .*Published: ') as info:
    prepare(folder, benchmark=name, questions=str(folder / 'no.jsonl'))
  assert 'no.jsonl' in str(info.value)


def test_missing_passages_and_corpus(folder):
  with pytest.raises(FileNotFoundError, match='btr retrieve.*qid, passage_ids'):
    prepare(folder, passages='no.tsv')
  with pytest.raises(FileNotFoundError, match='psgs_w100.tsv'):
    prepare(folder, corpus='no.tsv')


def test_file_of_another_benchmark(folder):
  with pytest.raises(ValueError, match='no question of fever.*4 x no claim'):
    write(folder / 'q.jsonl', [{'answers': ['x']}] * 4)
    prepare(folder, benchmark='fever')


def use(folder, **options):
  task_files.use(
    task_files.TaskFiles(
      'nq', questions={'test': str(folder / 'q.jsonl')}, **options
    )
  )


def test_a_split_is_prepared_once_and_again_when_it_changes(folder, caplog):
  use(folder)
  first = task_files.prepared('nq', 'test')
  written = os.stat(first).st_mtime_ns
  with caplog.at_level(logging.WARNING):
    assert task_files.prepared('nq', 'test') == first
  assert os.stat(first).st_mtime_ns == written
  # Told again, although nothing was read again.
  assert 'question without passages' in caplog.text
  write(folder / 'q.jsonl', QUESTIONS[:3])
  second = task_files.prepared('nq', 'test')
  assert second != first
  assert len(records.read_records(second)) == 3


def test_an_interrupted_preparation_is_made_again(folder):
  use(folder)
  path = task_files.prepared('nq', 'test')
  os.unlink(preparation.report_path(path))
  with open(path, 'w') as file:
    file.write('{"half')
  assert task_files.prepared('nq', 'test') == path
  assert len(records.read_records(path)) == 4


def test_split_without_a_file(folder):
  use(folder)
  with pytest.raises(ValueError, match="split 'train'.*gin_configs/data/nq"):
    task_files.prepared('nq', 'train')
  with pytest.raises(ValueError, match="name the split 'dev'"):
    task_files.TaskFiles('nq', questions={'dev': 'x'})


def test_vocabulary_of_the_tasks(folder):
  use(folder)
  with pytest.raises(ValueError, match='name none as vocabulary'):
    task_files.vocabulary(table.BENCHMARKS)
  use(folder, vocabulary=str(folder / 'no.model'))
  with pytest.raises(FileNotFoundError, match='no.model.*spiece.model'):
    task_files.vocabulary(table.BENCHMARKS)
  task_files.use(task_files.TaskFiles('mmlu', vocabulary='other.model'))
  with pytest.raises(ValueError, match=r'no\.model and other\.model|other'):
    task_files.vocabulary(table.BENCHMARKS)


def test_real_rows_of_bm25(shared_data, tmp_path):
  """The runs at hand, over the first 3 % of their corpus."""
  import itertools
  import lzma

  corpus = tmp_path / 'corpus.tsv'
  source = shared_data / 'passages' / 'corpus_w100' / 'psgs_w100.tsv.xz'
  with lzma.open(source, 'rt', encoding='utf-8') as file:
    corpus.write_text(''.join(itertools.islice(file, 9000)), encoding='utf-8')
  inputs = preparation.Inputs(
    'fever',
    str(shared_data / 'questions' / 'fever' / 'paper_dev.jsonl.gz'),
    str(shared_data / 'retrieval_bm25' / 'fever_paper_dev.top20.tsv.gz'),
    str(corpus),
    num_passages=1,
  )
  report = preparation.prepare(inputs, tmp_path / 'out.jsonl')
  assert report.questions == 9999
  missing = report.problems[1]['left_out']['unknown passage']
  assert report.with_passages == 9999 - missing > 100
