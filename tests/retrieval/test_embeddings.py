"""Embeddings on disk and the indexes over them."""

import json

import numpy as np
import pytest

from btr_jax.cache.errors import CacheLockedError
from btr_jax.cache.locks import FolderLock
from btr_jax.data.records import Passage
from btr_jax.retrieval import binary, dense, embeddings
from btr_jax.retrieval.interface import Retriever

DIM = 64
PASSAGES = [Passage(str(i), f'T{i}', f'text {i}') for i in range(300)]
SETTINGS = embeddings.DenseSettings('corpus', 'encoder', 300, DIM)


def vectors(texts):
  """An embedding by the text alone."""
  return np.stack(
    [
      np.random.default_rng(list(text.encode())).standard_normal(DIM)
      for text in texts
    ]
  ).astype(np.float32)


WANTED = vectors([embeddings.passage_text(p) for p in PASSAGES])


def test_stored_in_half_precision_with_signs(tmp_path):
  done = []
  embeddings.build(
    tmp_path,
    PASSAGES,
    vectors,
    SETTINGS,
    chunk=128,
    progress=lambda *a: done.append(a),
  )
  stored, codes = embeddings.open_embeddings(tmp_path, SETTINGS)
  assert stored.dtype == np.float16 and isinstance(stored, np.memmap)
  np.testing.assert_array_equal(stored, WANTED.astype(np.float16))
  np.testing.assert_array_equal(
    np.unpackbits(codes, axis=1), (WANTED > 0).astype(np.uint8)
  )
  assert done == [(0, 300), (128, 300), (256, 300), (300, 300)]
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    'codes.npy',
    'dense.json',
    'embeddings.npy',
  ]


def test_goes_on_where_it_stopped(tmp_path):
  calls = []

  def failing(texts):
    calls.append(len(texts))
    if len(calls) == 3:
      raise OSError('killed')
    return vectors(texts)

  with pytest.raises(OSError, match='killed'):
    embeddings.build(tmp_path, PASSAGES, failing, SETTINGS, chunk=100)
  with pytest.raises(FileNotFoundError, match='no finished embeddings'):
    embeddings.open_embeddings(tmp_path, SETTINGS)
  embeddings.build(tmp_path, PASSAGES, failing, SETTINGS, chunk=100)
  assert calls == [100, 100, 100, 100]
  stored, _ = embeddings.open_embeddings(tmp_path, SETTINGS)
  np.testing.assert_array_equal(stored, WANTED.astype(np.float16))
  embeddings.build(tmp_path, PASSAGES, failing, SETTINGS)  # nothing to do
  assert len(calls) == 4


def test_what_another_encoder_left_is_not_gone_on_with(tmp_path):
  def first(texts):
    if texts[0] != 'T0 text 0':
      raise OSError('killed')
    return vectors(texts) + 1

  other = embeddings.DenseSettings('corpus', 'other', 300, DIM)
  with pytest.raises(OSError):
    embeddings.build(tmp_path, PASSAGES, first, other, chunk=100)
  embeddings.build(tmp_path, PASSAGES, vectors, SETTINGS, chunk=100)
  stored, _ = embeddings.open_embeddings(tmp_path, SETTINGS)
  np.testing.assert_array_equal(stored, WANTED.astype(np.float16))


def test_other_embeddings_are_refused(tmp_path):
  embeddings.build(tmp_path, PASSAGES, vectors, SETTINGS)
  other = embeddings.DenseSettings('corpus', 'encoder', 300, DIM, 'float32')
  with pytest.raises(ValueError, match="dtype: found 'float16', expected 'fl"):
    embeddings.open_embeddings(tmp_path, other)


def test_one_builder_at_a_time(tmp_path):
  lock = FolderLock(tmp_path)
  with pytest.raises(CacheLockedError):
    embeddings.build(tmp_path, PASSAGES, vectors, SETTINGS)
  lock.release()


def test_damaged_weights_are_noticed(tmp_path):
  def nan(texts):
    found = vectors(texts)
    found[7, 3] = np.nan
    return found

  with pytest.raises(ValueError, match="passage '7' is not finite"):
    embeddings.build(tmp_path, PASSAGES, nan, SETTINGS)


def test_settings_are_checked():
  with pytest.raises(ValueError, match='int8'):
    embeddings.DenseSettings('c', 'e', 1, 64, 'int8')
  with pytest.raises(ValueError, match='60 dimensions'):
    embeddings.DenseSettings('c', 'e', 1, 60)


@pytest.fixture(scope='module')
def faiss():
  return pytest.importorskip('faiss')


@pytest.fixture(scope='module')
def questions():
  """Near passages 5, 17 and 200."""
  noise = np.random.default_rng(1).standard_normal((3, DIM))
  return (WANTED[[5, 17, 200]] + 0.1 * noise).astype(np.float32)


def test_exact_is_the_inner_product(faiss, questions):
  index = dense.ExactIndex(WANTED.astype(np.float16))
  scores, numbers = index.search(questions, 4)
  products = questions @ WANTED.astype(np.float16).astype(np.float32).T
  wanted = np.argsort(-products, axis=1)[:, :4]
  np.testing.assert_array_equal(numbers, wanted)
  np.testing.assert_allclose(
    scores, np.take_along_axis(products, wanted, axis=1), rtol=1e-5
  )


def test_binary_ranks_its_candidates_exactly(faiss, questions):
  codes = embeddings.sign_codes(WANTED)
  index = binary.BinaryIndex(codes, WANTED, candidates=10)
  scores, numbers = index.search(questions, 3)
  assert numbers[:, 0].tolist() == [5, 17, 200]
  assert (np.diff(scores, axis=1) <= 0).all()
  np.testing.assert_allclose(
    scores,
    np.take_along_axis(questions @ WANTED.T, numbers, axis=1),
    rtol=1e-5,
  )
  # Hamming distances by hand decide who is looked at.
  signs = np.unpackbits(codes, axis=1)
  distance = (np.unpackbits(embeddings.sign_codes(questions), axis=1)[:, None]
              != signs[None]).sum(2)  # fmt: skip
  reach = np.sort(distance, axis=1)[:, 29]
  found = np.take_along_axis(distance, numbers, axis=1)
  assert (found <= reach[:, None]).all()


def test_all_candidates_give_the_exact_hits(faiss, questions):
  exact = dense.ExactIndex(WANTED).search(questions, 20)[1]
  every = binary.BinaryIndex(embeddings.sign_codes(WANTED), WANTED, 15)
  np.testing.assert_array_equal(every.search(questions, 20)[1], exact)


@pytest.mark.parametrize('dtype', ['float16', 'float32'])
@pytest.mark.parametrize('k', [1, 7, 40, 300, 500])
def test_binary_equals_two_looks_by_hand(faiss, questions, dtype, k, tmp_path):
  np.save(tmp_path / 'e.npy', WANTED.astype(dtype))
  stored = np.load(tmp_path / 'e.npy', mmap_mode='r')
  codes = embeddings.sign_codes(WANTED)
  index = binary.BinaryIndex(codes, stored, candidates=3)
  flat = faiss.IndexBinaryFlat(DIM)
  flat.add(codes)
  depth = min(3 * min(k, 300), 300)
  _, near = flat.search(embeddings.sign_codes(questions), depth)
  del stored  # the index keeps what it points into
  scores, numbers = index.search(questions, k)
  assert scores.shape == numbers.shape == (3, min(k, 300))
  products = questions @ WANTED.astype(dtype).astype(np.float32).T
  for row, (candidates, values) in enumerate(zip(near, products, strict=True)):
    # Of candidates equally far, either may be looked at.
    assert set(numbers[row, :1]) <= set(candidates)
    best = np.sort(values[candidates])[::-1][: min(k, 300)]
    assert np.mean(np.abs(scores[row] - best) < 1e-4) > 0.9
    np.testing.assert_allclose(scores[row], values[numbers[row]], atol=1e-4)


def test_codes_of_other_embeddings_are_refused(faiss):
  codes = embeddings.sign_codes(WANTED)
  with pytest.raises(ValueError, match=r'codes are \(299, 8\); expected \(300'):
    binary.BinaryIndex(codes[:299], WANTED)
  with pytest.raises(ValueError, match='float64; expected float16 or'):
    binary.BinaryIndex(codes, WANTED.astype(np.float64))


def test_the_retriever(faiss):
  retriever = dense.DenseRetriever(vectors, dense.ExactIndex(WANTED))
  assert isinstance(retriever, Retriever)
  found = retriever.search(['T9 text 9', 'T11 text 11'], 500)
  assert [hits[0].passage for hits in found] == [9, 11]
  assert [len(hits) for hits in found] == [300, 300]
  assert all(isinstance(value, (int, float)) for value in found[0][0])
  assert json.dumps(found[0][0])
  assert retriever.search([], 3) == []
  with pytest.raises(ValueError, match='found 0'):
    retriever.search(['x'], 0)
