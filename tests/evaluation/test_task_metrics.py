"""Golden pairs of the metrics, also where public programs differ."""

from __future__ import annotations

import pytest

from btr_jax.data import text
from btr_jax.data.records import Record
from btr_jax.evaluation import answer_metrics, task_metrics

# Written form -> what SQuAD's and what TriviaQA's script make of it, by hand
# from the rules of the two scripts.
NORMALIZED = [
  ('The Beatles', 'beatles', 'beatles'),
  # Articles are words: those inside words stay.
  ('Theatre of Anna', 'theatre of anna', 'theatre of anna'),
  ('a an the', '', ''),
  # SQuAD joins what punctuation parted, TriviaQA parts it.
  ('well-known', 'wellknown', 'well known'),
  ('U.S.', 'us', 'u s'),
  ('AC/DC', 'acdc', 'ac dc'),
  ("Rock 'n' Roll", 'rock n roll', 'rock n roll'),
  ("O'Neil", 'oneil', 'o neil'),
  ('1,000.5', '10005', '1 000 5'),
  # So an article can come out of it.
  ('10 a.m.', '10 am', '10 m'),
  ('Vitamin-A', 'vitamina', 'vitamin'),
  # TriviaQA knows these four marks beside ASCII, SQuAD none.
  ('O’Neil', 'o’neil', 'o neil'),
  ('‘Hello’', '‘hello’', 'hello'),
  ('rock´n`roll', 'rock´nroll', 'rock n roll'),
  # Neither knows other marks of Unicode.
  ('1914–1918', '1914–1918', '1914–1918'),
  ('“Imagine”', '“imagine”', '“imagine”'),
  ('¿Qué?', '¿qué', '¿qué'),
  # Underscores: TriviaQA's own file names have them.
  ('Sunset_Boulevard', 'sunsetboulevard', 'sunset boulevard'),
  ('the_a_x', 'theax', 'x'),
  # Spaces of any kind are one, letters keep their marks.
  (' New\u00a0York \n City ', 'new york city', 'new york city'),
  ('Wilhelm RÖNTGEN', 'wilhelm röntgen', 'wilhelm röntgen'),
  ('🚁', '🚁', '🚁'),
  ('...', '', ''),
]


@pytest.mark.parametrize(('written', 'squad', 'triviaqa'), NORMALIZED)
def test_normalized_answers(written, squad, triviaqa):
  assert text.normalize_answer(written) == squad
  assert text.normalize_triviaqa_answer(written) == triviaqa


@pytest.mark.parametrize(
  ('prediction', 'answers', 'squad', 'triviaqa'),
  [
    ('wellknown', ['well-known'], (1, 1), (0, 0)),
    ('well known', ['well-known'], (0, 0), (1, 1)),
    ('US', ['the U.S.'], (1, 1), (0, 0)),
    ('O Neil', ['O’Neil'], (0, 0), (1, 1)),
    ('Sunset Boulevard', ['Sunset_Boulevard'], (0, 0), (1, 1)),
    ('the theatre', ['Theatre', 'theater'], (1, 1), (1, 1)),
    # One of two words of the answer, and no other: 2 * 1 * 0.5 / 1.5.
    ('Boulevard', ['Sunset_Boulevard'], (0, 0), (0, 2 / 3)),
    ('', ['x'], (0, 0), (0, 0)),
    # SQuAD 1.1's script gives F1 0 here, SQuAD 2.0's and this one 1.
    ('the', ['a'], (1, 1), (1, 1)),
  ],
)
def test_scores_by_both_rules(prediction, answers, squad, triviaqa):
  for expected, normalize in (
    (squad, text.normalize_answer),
    (triviaqa, text.normalize_triviaqa_answer),
  ):
    found = (
      answer_metrics.exact_match(prediction, answers, normalize),
      answer_metrics.f1(prediction, answers, normalize),
    )
    assert found == pytest.approx(expected)


def test_triviaqa_is_scored_by_both_rules():
  metric = task_metrics.metric('triviaqa')
  scores = metric.score(
    ['well known', 'Lima'],
    [Record('0', 'q', ('well-known', 'famous')), Record('1', 'q', ('Lima',))],
  )
  assert scores == {
    'em': 50.0,
    'f1': 50.0,
    'em_triviaqa': 100.0,
    'f1_triviaqa': 100.0,
  }
  assert set(metric.shown) == set(scores)


def fever(*answers):
  return [Record(str(i), 'c', (answer,)) for i, answer in enumerate(answers)]


def test_fever_accuracy_of_all_and_of_each_label():
  scores = task_metrics.metric('fever').score(
    ['true', ' False ', 'maybe', 'yes', 'false', 'true'],
    fever('true', 'true', 'maybe', 'maybe', 'false', 'maybe'),
  )
  assert scores == pytest.approx(
    {
      'accuracy': 50.0,
      'accuracy_supports': 50.0,
      'accuracy_refutes': 100.0,
      'accuracy_not_enough_info': 100 / 3,
      'other_words': 100 / 6,
    }
  )


def test_fever_without_one_of_the_labels():
  scores = task_metrics.metric('fever').score(['true'], fever('true'))
  assert scores['accuracy_supports'] == 100.0
  assert 'accuracy_refutes' not in scores


def mmlu(letter, subject):
  return Record('i', 'q', (letter,), extra={'subject': subject})


def test_mmlu_by_group_and_the_mean_over_subjects():
  records = [
    mmlu('A', 'anatomy'),
    mmlu('B', 'anatomy'),
    mmlu('C', 'astronomy'),
    mmlu('D', 'sociology'),
    mmlu('A', 'philosophy'),
    mmlu('A', 'auxiliary'),
  ]
  scores = task_metrics.metric('mmlu').score(
    ['A', 'b', 'A', 'D', 'B', 'A'], records
  )
  assert scores == pytest.approx(
    {
      'accuracy': 100 * 4 / 6,
      # anatomy 100, astronomy 0, sociology 100, philosophy 0, auxiliary 100
      'accuracy_subject_mean': 60.0,
      'accuracy_stem': 0.0,
      'accuracy_humanities': 0.0,
      'accuracy_social_sciences': 100.0,
      'accuracy_other': 100.0,
    }
  )


@pytest.mark.parametrize('name', task_metrics.METRICS)
def test_every_metric_refuses_what_it_cannot_score(name):
  metric = task_metrics.metric(name)
  assert metric.headline == metric.shown[0]
  with pytest.raises(ValueError, match='1 predictions for 2 questions'):
    metric.score(['a'], fever('true', 'false'))
  with pytest.raises(ValueError, match='No question'):
    metric.score([], [])


def test_a_label_cannot_be_two():
  with pytest.raises(ValueError, match='expected one label'):
    task_metrics.metric('fever').score(
      ['true'], [Record('0', 'c', ('true', 'maybe'))]
    )


def test_unknown_metric():
  with pytest.raises(ValueError, match="'bleu'; expected one of squad"):
    task_metrics.metric('bleu')


def test_judgements_of_the_reference(shared_data):
  """Whether an answer is in a passage, flag by flag as the data tells it."""
  import gzip
  import json

  from btr_jax.retrieval import recall

  path = shared_data / 'passages' / 'retrieved_wiki18_e5' / 'nq.jsonl.gz'
  same = total = 0
  with gzip.open(path, 'rt', encoding='utf-8') as file:
    for line in file:
      value = json.loads(line)
      for passage in value['ctxs']:
        own = recall.has_answer(
          value['answers'], f'{passage["title"]} {passage["text"]}'
        )
        same += own == passage['hasanswer']
        total += 1
  assert total > 3000
  # 99.0 %: their program also counts parts of words, and no titles.
  assert same / total > 0.985
