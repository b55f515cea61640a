"""BM25 over titles and texts, by the package bm25s (sparse, precomputed)."""

from collections.abc import Iterable, Sequence
import json
import os
import re
import shutil
import tempfile

import bm25s
import numpy as np

from btr_jax.data import records
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
  folded = text_lib.fold_diacritics(text).lower()
  folded = folded.replace("'s ", ' ').replace("'", '')
  return [_singular(w) for w in _WORD.findall(folded) if w not in STOP_WORDS]


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
    tokens = [
      words(' '.join([p.title] * title_copies + [p.text])) for p in passages
    ]
    if not any(tokens):
      raise ValueError(
        f'Cannot index {len(tokens)} passages without a single word. Expected '
        'at least one passage with text.'
      )
    index = bm25s.BM25(k1=k1, b=b)
    index.index(tokens, show_progress=False)
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
    k = min(k, len(scores))
    # Everything at least as good as the k-th, so that ties are cut by index.
    threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
    candidates = np.flatnonzero((scores >= threshold) & (scores > 0))
    order = np.lexsort((candidates, -scores[candidates]))[:k]
    return [interface.Hit(int(i), float(scores[i])) for i in candidates[order]]

  def save(self, folder: str | os.PathLike) -> None:
    """Writes the index; the folder appears whole or not at all."""
    folder = os.fspath(folder)
    parent = os.path.dirname(os.path.abspath(folder))
    os.makedirs(parent, exist_ok=True)
    aside = tempfile.mkdtemp(prefix='.bm25.', dir=parent)
    try:
      self._index.save(aside, show_progress=False)
      settings = {
        'format_version': FORMAT_VERSION,
        'num_passages': self.num_passages,
      }
      records.write_json(os.path.join(aside, _SETTINGS_FILE), settings)
      os.chmod(aside, 0o755)
      if os.path.isdir(folder):
        shutil.rmtree(folder)
      os.replace(aside, folder)
    finally:
      shutil.rmtree(aside, ignore_errors=True)

  @classmethod
  def load(
    cls, folder: str | os.PathLike, *, mmap: bool = True
  ) -> 'Bm25Retriever':
    """Reads what `save` wrote, by default mapped rather than loaded.

    Raises:
      FileNotFoundError: the folder holds no index.
      ValueError: another version of the format wrote it.
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
    index = bm25s.BM25.load(
      folder, mmap=mmap, load_corpus=False, show_progress=False
    )
    return cls(index, settings['num_passages'])
