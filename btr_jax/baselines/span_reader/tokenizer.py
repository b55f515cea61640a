"""WordPiece tokens of questions and passages, and where they stand in texts."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import hashlib
from typing import Any

from jaxtyping import Int32, Int64
import numpy as np

from btr_jax.baselines.span_reader import config as config_lib
from btr_jax.cache.compression import stop_words
from btr_jax.data.records import Passage

_WORD_START = '▁'  # SentencePiece's mark, which stop_words knows
_CONTINUED = '##'
_TITLE_TOKENS = 16


@dataclasses.dataclass(frozen=True)
class PassageTokens:
  """A passage as the reader sees it.

  Attributes:
    ids: title [SEP] text [SEP], no padding.
    first: place of the text's first token in `ids`.
    places: of each token of the text, its first character and the one behind
      its last.
  """

  ids: list[int]
  first: int
  places: list[tuple[int, int]]

  def span(self, start: int, end: int) -> tuple[int, int]:
    """Characters of the text from token `start` to token `end` of `ids`."""
    return self.places[start - self.first][0], self.places[end - self.first][1]


class SpanTokenizer:
  """Cuts to the reader's lengths; text that is cut away is not read."""

  def __init__(self, tokenizer: Any, config: config_lib.SpanReaderConfig):
    """Takes a tokenizer of the package `tokenizers` over."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    self._tokenizer = tokenizer
    self.config = config
    self.fingerprint = hashlib.sha256(tokenizer.to_str().encode()).hexdigest()

  def to_json(self) -> str:
    """The content of tokenizer.json."""
    return self._tokenizer.to_str(pretty=True)

  def _plain(self, texts: Sequence[str]) -> list[Any]:
    return self._tokenizer.encode_batch(list(texts), add_special_tokens=False)

  def questions(
    self, texts: Sequence[str]
  ) -> Int32[np.ndarray, 'batch length']:
    """[CLS] question [SEP], padded with 0; a long one loses its beginning.

    What is asked for ("... in which year?") more often stands at the end of a
    long question than the words that open it.
    """
    length = self.config.question_length
    result = np.zeros((len(texts), length), np.int32)
    classify = self._tokenizer.token_to_id('[CLS]')
    for row, encoding in enumerate(self._plain(texts)):
      ids = encoding.ids[-(length - 2) :]
      ids = [classify, *ids, self.config.separator_id]
      result[row, : len(ids)] = ids
    return result

  def passages(
    self, passages: Sequence[Passage], length: int | None = None
  ) -> list[PassageTokens]:
    """title [SEP] text [SEP]; a long text is cut at its end.

    Args:
      passages: any number.
      length: the most tokens; None takes the configuration's.
    """
    length = length or self.config.passage_length
    separator = self.config.separator_id
    titles = self._plain([passage.title for passage in passages])
    texts = self._plain([passage.text for passage in passages])
    result = []
    for title, text in zip(titles, texts, strict=True):
      # A separator in the title would make the rest of it text.
      head = [i for i in title.ids if i != separator][
        : min(_TITLE_TOKENS, length - 3)
      ]
      room = length - len(head) - 2
      result.append(
        PassageTokens(
          [*head, separator, *text.ids[:room], separator],
          len(head) + 1,
          text.offsets[:room],
        )
      )
    return result

  def stop_ids(self) -> Int64[np.ndarray, 'stop']:
    """Ids of stop words and punctuation, for `cache.compression.compress`."""
    names = sorted(
      self._tokenizer.get_vocab().items(), key=lambda item: item[1]
    )
    # What continues a word is a part of it, as in SentencePiece without mark.
    pieces = [
      name.removeprefix(_CONTINUED)
      if name.startswith(_CONTINUED)
      else _WORD_START + name
      for name, _ in names
    ]
    ids = np.array([number for _, number in names], np.int64)
    return np.sort(ids[stop_words.stop_ids(pieces)])


def padded(
  rows: Sequence[Sequence[int]], length: int
) -> Int32[np.ndarray, 'batch length']:
  """Rows of ids, padded on the right with 0."""
  result = np.zeros((len(rows), length), np.int32)
  for number, row in enumerate(rows):
    result[number, : len(row)] = row
  return result
