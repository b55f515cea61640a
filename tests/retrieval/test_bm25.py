"""BM25: ranks, ties, files."""

import json

import pytest

from btr_jax.data import records
from btr_jax.retrieval import bm25, interface

PASSAGES = [
  records.Passage('0', 'Peru: Geography', 'Coastline: 2,414 km.'),
  records.Passage('1', 'Chile: Geography', 'Coastline: 6,435 km.'),
  records.Passage('2', 'Peru: Government', 'Capital: Lima.'),
  records.Passage('3', 'Chile: Government', 'Capital: Santiago.'),
  records.Passage('4', 'Chile: Government', 'Capital: Santiago.'),
]


@pytest.fixture(scope='module')
def retriever():
  return bm25.Bm25Retriever.build(PASSAGES)


def test_fulfils_the_protocol(retriever):
  assert isinstance(retriever, interface.Retriever)


def test_title_and_text_count(retriever):
  found = retriever.search(
    ['How long is the coastline of Peru?', 'What is the capital of Chile?'], 2
  )
  assert found[0][0].passage == 0
  assert [hit.passage for hit in found[1]] == [3, 4]


def test_scores_fall_and_ties_keep_the_order_of_the_corpus(retriever):
  (hits,) = retriever.search(['capital Santiago Chile'], 5)
  scores = [hit.score for hit in hits]
  assert scores == sorted(scores, reverse=True)
  assert [hit.passage for hit in hits[:2]] == [3, 4]
  assert hits[0].score == hits[1].score
  (first,) = retriever.search(['capital Santiago Chile'], 1)
  assert [hit.passage for hit in first] == [3]


def test_words_nobody_knows_find_nothing(retriever):
  assert retriever.search(['xyzzy', 'What is the?', ''], 3) == [[], [], []]


def test_only_passages_that_share_a_word_are_found(retriever):
  (hits,) = retriever.search(['Lima'], 5)
  assert [hit.passage for hit in hits] == [2]


def test_more_hits_than_passages(retriever):
  (hits,) = retriever.search(['Geography Government'], 50)
  assert sorted(hit.passage for hit in hits) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize('k', [0, -1])
def test_k_must_be_positive(retriever, k):
  with pytest.raises(ValueError, match=f'found {k}'):
    retriever.search(['Peru'], k)


@pytest.mark.parametrize('passages', [[], [records.Passage('0', '', '?!')]])
def test_empty_corpus(passages):
  with pytest.raises(ValueError, match='without a single word'):
    bm25.Bm25Retriever.build(passages)


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ('What are the Ports of Chile?', ['port', 'chile']),
    ("Côte d'Ivoire's countries", ['cote', 'divoire', 'country']),
    ('2,414 km', ['2', '414', 'km']),
    ('gas bus glass', ['gas', 'bus', 'glass']),
    ('', []),
  ],
)
def test_words(text, expected):
  assert bm25.words(text) == expected


@pytest.mark.parametrize('mmap', [True, False])
def test_saved_index_finds_the_same(retriever, tmp_path, mmap):
  folder = tmp_path / 'index'
  retriever.save(folder)
  retriever.save(folder)  # replaces
  loaded = bm25.Bm25Retriever.load(folder, mmap=mmap)
  questions = ['capital of Peru', 'coastline Chile', 'nothing known']
  assert loaded.search(questions, 3) == retriever.search(questions, 3)
  assert loaded.num_passages == 5
  assert [p.name for p in tmp_path.iterdir()] == ['index']


def test_folder_without_index(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'build\(passages\)'):
    bm25.Bm25Retriever.load(tmp_path)


def test_index_of_another_version(retriever, tmp_path):
  retriever.save(tmp_path / 'index')
  path = tmp_path / 'index' / 'bm25.json'
  settings = json.loads(path.read_text())
  path.write_text(json.dumps(settings | {'format_version': 99}))
  with pytest.raises(ValueError, match='version 99, expected 1'):
    bm25.Bm25Retriever.load(tmp_path / 'index')


def test_index_of_another_corpus(retriever, tmp_path):
  retriever.save(tmp_path / 'index', corpus='aaa')
  assert bm25.Bm25Retriever.load(tmp_path / 'index', corpus='aaa')
  assert bm25.Bm25Retriever.load(tmp_path / 'index')
  with pytest.raises(ValueError, match="of corpus 'aaa', expected 'bbb'"):
    bm25.Bm25Retriever.load(tmp_path / 'index', corpus='bbb')


def test_scores_are_those_of_bm25s_itself(retriever):
  """The numbering of words is ours; the scores must not know."""
  import bm25s

  tokens = [bm25.words(f'{p.title} {p.text}') for p in PASSAGES]
  theirs = bm25s.BM25(k1=0.9, b=0.4)
  theirs.index(tokens, show_progress=False)
  question = 'How long is the coastline of Chile, Santiago?'
  (hits,) = retriever.search([question], 5)
  wanted = theirs.get_scores(bm25.words(question))
  assert {hit.passage: hit.score for hit in hits} == pytest.approx(
    {i: score for i, score in enumerate(wanted) if score > 0}
  )
