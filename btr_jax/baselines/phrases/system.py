"""Questions in, answers out, and no reader in between."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import os

import numpy as np

from btr_jax.baselines.phrases import files, search, vectors
from btr_jax.data import text
from btr_jax.data.records import Passage


@dataclasses.dataclass(frozen=True)
class Found:
  """An answer.

  Attributes:
    text: of the best phrase.
    score: of all phrases that say the same, as one.
    passage: where the best of them stands.
  """

  text: str
  score: float
  passage: Passage


class PhraseSystem:
  """DensePhrases over one corpus."""

  def __init__(
    self,
    phrase_model: files.PhraseModel,
    index: search.PhraseIndex,
    depth: int = 50,
  ):
    """Keeps both.

    Args:
      phrase_model: trained.
      index: built with it.
      depth: starts and ends looked up for a question.

    Raises:
      ValueError: depth below 1.
    """
    if depth < 1:
      raise ValueError(
        f'depth is {depth}; expected at least 1. It is the number of tokens '
        'looked up for either side.'
      )
    self.index = index
    self.depth = depth
    self._encode = vectors.make_query_encoder(phrase_model)

  @classmethod
  def load(
    cls,
    model_folder: str | os.PathLike,
    index_folder: str | os.PathLike,
    depth: int = 50,
  ) -> PhraseSystem:
    """Opens what `btr phrases train` and `btr phrases build` wrote.

    Raises:
      ValueError: one is missing, or they do not belong together.
    """
    phrase_model = files.load(model_folder)
    index = search.PhraseIndex(index_folder, phrase_model)
    return cls(phrase_model, index, depth)

  @property
  def index_bytes(self) -> int:
    """Bytes of the index's files, without the corpus's text."""
    return self.index.index_bytes

  def find(self, questions: Sequence[str], count: int = 1) -> list[list[Found]]:
    """The best answers of each question, each text once.

    Phrases that say the same count as one, with the logarithm of the sum of
    the exponentials of their scores.

    Args:
      questions: asked together.
      count: answers at most.

    Raises:
      ValueError: an empty question.
    """
    if not questions:
      return []
    starts, ends = self._encode(questions)
    return [
      self._aggregate(ranked, count)
      for ranked in self.index.search(starts, ends, self.depth)
    ]

  def _aggregate(self, ranked, count):
    groups: dict[str, list[tuple[float, int, int]]] = {}
    for score, first, last in ranked:
      key = text.normalize_answer(self.index.text(first, last))
      groups.setdefault(key, []).append((score, first, last))
    found = []
    for members in groups.values():
      _, first, last = members[0]
      total = float(np.logaddexp.reduce([score for score, *_ in members]))
      found.append(
        Found(self.index.text(first, last), total, self.index.passage(first))
      )
    return sorted(found, key=lambda answer: -answer.score)[:count]

  def answer(self, questions: Sequence[str]) -> list[str]:
    """The best answer of each question. Errors as `find`.

    Where none is found, as can be with an inverted file, it is empty.
    """
    return [best[0].text if best else '' for best in self.find(questions)]
