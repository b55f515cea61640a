"""Documents into passages of at most so many words, section by section."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
import enum
from typing import NamedTuple


class Kind(enum.Enum):
  """What a piece of a document is."""

  TITLE = 'title'
  HEADING = 'heading'
  TEXT = 'text'


class Piece(NamedTuple):
  """A run of a document's text in one role."""

  kind: Kind
  text: str


def passage_title(title: str, section: str) -> str:
  """'Title: section', as Atlas joins them."""
  return f'{title}: {section}' if section and section != title else title


def split(
  pieces: Iterable[Piece], title: str, words: int
) -> Iterator[tuple[str, str]]:
  """Cuts a document into disjoint passages, none across a heading.

  Args:
    pieces: the document in its order; read as a stream.
    title: until a piece gives another one.
    words: in a passage, at most; words are what white space parts.

  Yields:
    (title with the section's heading, text), never an empty text.
  """
  section = ''
  pending: list[str] = []
  for piece in pieces:
    if piece.kind is Kind.TEXT:
      pending += piece.text.split()
      while len(pending) >= words:
        yield passage_title(title, section), ' '.join(pending[:words])
        del pending[:words]
      continue
    if pending:
      yield passage_title(title, section), ' '.join(pending)
      pending = []
    text = ' '.join(piece.text.split())
    if piece.kind is Kind.TITLE:
      title, section = text or title, ''
    else:
      section = text
  if pending:
    yield passage_title(title, section), ' '.join(pending)
