"""What every retriever offers."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable


class Hit(NamedTuple):
  """One retrieved passage: its index in the corpus, and its score."""

  passage: int
  score: float


@runtime_checkable
class Retriever(Protocol):
  """Finds passages of one corpus for questions."""

  def search(self, questions: Sequence[str], k: int) -> list[list[Hit]]:
    """Returns, for each question, at most `k` hits, best first."""
    ...
