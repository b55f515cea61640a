"""Token ids that carry no content of their own: stop words and punctuation."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Int64
import numpy as np

_WORD_START = '▁'  # SentencePiece's mark of a space before the piece

# English function words: articles, pronouns, prepositions, conjunctions,
# auxiliaries (not `may`, which is also a month). The paper names no list.
STOP_WORDS = frozenset(
  """
  a an the this that these those such
  i me my mine myself you your yours yourself he him his himself she her hers
  herself it its itself we us our ours ourselves they them their theirs
  themselves who whom whose which what
  of in on at by for with from to into onto upon over under above below between
  among through during before after since until about against within without
  along across behind beyond near off out up down toward towards per via as than
  and or but nor so yet if then else because while although though unless
  whereas whether when where why how
  am is are was were be been being have has had having do does did doing can
  could might must shall should will would ought
  not no only also very too just even still both either neither each every all
  any some most more less few many much other another same own here there again
  once ever never now however therefore thus
  """.split()
)


def is_stop_piece(piece: str) -> bool:
  """Whether a SentencePiece piece is a whole stop word or punctuation.

  A piece without the mark of a word's start is a part of some word ("the" in
  "lathe"), not a stop word; punctuation counts with and without it.
  """
  word = piece.removeprefix(_WORD_START)
  if not any(character.isalnum() for character in word):
    return not piece.startswith('<')  # not </s>, <pad>, <unk>
  # "the" and "The", but not "US" or "WHO".
  written = (word.lower(), word.capitalize())
  return (
    piece.startswith(_WORD_START)
    and word in written
    and word.lower() in STOP_WORDS
  )


def stop_ids(pieces: Sequence[str]) -> Int64[np.ndarray, 'stop']:
  """The ids, in order, of the stop pieces of a vocabulary.

  Args:
    pieces: the vocabulary's pieces, by id.
  """
  found = [number for number, text in enumerate(pieces) if is_stop_piece(text)]
  return np.array(found, np.int64)
