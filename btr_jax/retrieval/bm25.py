"""BM25 over titles and texts, by the package bm25s (sparse, precomputed)."""

from collections.abc import Iterable, Sequence
import json
import os
import pathlib
import re

import bm25s
import numpy as np

from btr_jax.data import folders, records
from btr_jax.data import text as text_lib
from btr_jax.retrieval import interface

FORMAT_VERSION = 1
_SETTINGS_FILE = 'bm25.json'

_WORD = re.compile(r'[a-z0-9]+')
# Words that questions are made of and that tell nothing about the passage.
STOP_WORDS = frozenset(
  """a about all an and any are as at be been but by can could did do does
  for from give had has have he her his how if in into is it its just many me
  much my name no nor of on one or our shall she should so some such tell than
  that the their them then there these they this those to was we were what
  when where which who whom whose why will with would you your""".split()
)


def words(text: str) -> list[str]:
  """Splits text into lower-case words, less stop words and plural endings."""
  return [_singular(w) for w in _spelled(text) if w not in STOP_WORDS]


def _spelled(text: str) -> list[str]:
  """Lower-case words as they are spelled, without marks on letters."""
  if not text.isascii():
    text = text_lib.fold_diacritics(text)
  folded = text.lower().replace("'s ", ' ').replace("'", '')
  return _WORD.findall(folded)


def _singular(word: str) -> str:
  """Harman's S stemmer: it conflates plurals and leaves the rest alone."""
  if len(word) > 3 and word.endswith('s'):
    if word.endswith('ies') and word[-4] not in 'ae':
      return word[:-3] + 'y'
    if word.endswith('es') and word[-3] not in 'aeo':
      return word[:-1]
    if word[-2] not in 'us':
      return word[:-1]
  return word


class _Numbering:
  """Numbers words by their first appearance.

  Every spelling is stemmed once: a corpus repeats its words thousands of
  times.
  """

  def __init__(self) -> None:
    self.vocabulary: dict[str, int] = {}
    self._of_spelling: dict[str, int] = dict.fromkeys(STOP_WORDS, -1)

  def numbers(self, text: str) -> list[int]:
    """The numbers of the text's words, less stop words."""
    known = self._of_spelling
    found = []
    for spelling in _spelled(text):
      number = known.get(spelling)
      if number is None:
        word = _singular(spelling)
        number = self.vocabulary.setdefault(word, len(self.vocabulary))
        known[spelling] = number
      if number >= 0:
        found.append(number)
    return found


class Bm25Retriever:
  """BM25 index of a corpus; build it, or load it from a folder.

  Ties go to the passage that comes first, so that results are the same on
  every machine.
  """

  def __init__(self, index: bm25s.BM25, num_passages: int):
    self._index = index
    self.num_passages = num_passages

  @classmethod
  def build(
    cls,
    passages: Iterable[records.Passage],
    *,
    k1: float = 0.9,
    b: float = 0.4,
    title_copies: int = 1,
  ) -> 'Bm25Retriever':
    """Indexes a corpus.

    Args:
      passages: the corpus; hits refer to its order.
      k1: how soon repeated words stop to count.
      b: how much long passages are marked down, 0 to 1.
      title_copies: how often the title counts, compared with the text.

    Raises:
      ValueError: the corpus is empty or has no words at all.
    """
    numbering = _Numbering()
    tokens = [
      numbering.numbers(' '.join([p.title] * title_copies + [p.text]))
      for p in passages
    ]
    if not numbering.vocabulary:
      raise ValueError(
        f'Cannot index {len(tokens)} passages without a single word. Expected '
        'at least one passage with text.'
      )
    index = bm25s.BM25(k1=k1, b=b)
    index.index((tokens, numbering.vocabulary), show_progress=False)
    return cls(index, len(tokens))

  def search(
    self, questions: Sequence[str], k: int
  ) -> list[list[interface.Hit]]:
    """Finds passages; a question without any known word finds none.

    Args:
      questions: what to look for.
      k: at most so many hits per question.

    Returns:
      Per question the hits with a positive score, best first.

    Raises:
      ValueError: k is not positive.
    """
    if k < 1:
      raise ValueError(f'k must be at least 1, found {k}.')
    return [self._search_one(question, k) for question in questions]

  def _search_one(self, question: str, k: int) -> list[interface.Hit]:
    identifiers = self._index.get_tokens_ids(words(question))
    if not identifiers:
      return []
    scores = self._index.get_scores_from_ids(identifiers)
    # Few passages share a word with a question: all else is done on those.
    found = np.flatnonzero(scores > 0)  # faster than on floats
    scores = scores[found]
    if len(found) > k:
      # Everything at least as good as the k-th, so that ties go by index.
      threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
      best = np.flatnonzero(scores >= threshold)
      found, scores = found[best], scores[best]
    # Stable: equal scores stay in the order of the corpus.
    order = np.argsort(-scores, kind='stable')[:k]
    return [
      interface.Hit(passage, score)
      for passage, score in zip(
        found[order].tolist(), scores[order].tolist(), strict=True
      )
    ]

  def save(self, folder: str | os.PathLike, corpus: str | None = None) -> None:
    """Writes the index; the folder appears whole or not at all.

    Args:
      folder: where to; replaced if it is there.
      corpus: fingerprint of the corpus, for `load` to compare.
    """
    with folders.replacing(pathlib.Path(folder)) as aside:
      aside.mkdir()
      self._index.save(aside, show_progress=False)
      settings = {
        'format_version': FORMAT_VERSION,
        'num_passages': self.num_passages,
        'corpus': corpus,
      }
      records.write_json(aside / _SETTINGS_FILE, settings)

  @classmethod
  def load(
    cls,
    folder: str | os.PathLike,
    *,
    mmap: bool = True,
    corpus: str | None = None,
  ) -> 'Bm25Retriever':
    """Reads what `save` wrote, by default mapped rather than loaded.

    Args:
      folder: of the index.
      mmap: leave the index on disk and read what a question needs.
      corpus: fingerprint that the index must have been saved with; None
        compares nothing.

    Raises:
      FileNotFoundError: the folder holds no index.
      ValueError: another version of the format wrote it, or it was built from
        another corpus.
    """
    path = os.path.join(folder, _SETTINGS_FILE)
    if not os.path.exists(path):
      raise FileNotFoundError(
        f'{folder} holds no BM25 index ({_SETTINGS_FILE} is missing). Write '
        'one with Bm25Retriever.build(passages).save(folder).'
      )
    with open(path, encoding='utf-8') as file:
      settings = json.load(file)
    if settings.get('format_version') != FORMAT_VERSION:
      raise ValueError(
        f'{path}: format version {settings.get("format_version")!r}, expected '
        f'{FORMAT_VERSION}. Build the index again.'
      )
    if corpus is not None and settings.get('corpus') != corpus:
      raise ValueError(
        f'{path}: the index is of corpus {settings.get("corpus")!r}, expected '
        f'{corpus!r}. Hits would name other passages; build it again.'
      )
    index = bm25s.BM25.load(
      folder, mmap=mmap, load_corpus=False, show_progress=False
    )
    return cls(index, settings['num_passages'])
