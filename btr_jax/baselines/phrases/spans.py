"""Passages as tokens with their places, and where answers stand in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import dataclasses
from typing import Any

import numpy as np

from btr_jax.baselines.phrases.model import PhraseConfig
from btr_jax.data.records import Context, Passage, Record
from btr_jax.retrieval import embeddings

# An index keeps places in two bytes; tokens behind them are of no answer.
_LAST_PLACE = np.iinfo(np.uint16).max


@dataclasses.dataclass(frozen=True)
class TokenizedPassage:
  """A passage as the encoder takes it.

  Attributes:
    token_ids: title and text with [CLS] and [SEP].
    offsets: characters of each token in the passage's text, start and end;
      (-1, -1) for what is not of the text, so that no answer is there.
  """

  token_ids: np.ndarray
  offsets: np.ndarray

  @property
  def answerable(self) -> np.ndarray:
    """Which tokens are of the text, bool [tokens]."""
    return self.offsets[:, 0] >= 0


@dataclasses.dataclass(frozen=True)
class Example:
  """A question, its passage, and where in it the answer stands.

  Attributes:
    question: token ids.
    passage: tokens and places.
    passage_number: one for all examples of a passage, and of no other.
    spans: first and last token of each time that the answer stands there.
    near: numbers of the other passages that were retrieved for the question,
      of those that have examples.
  """

  question: np.ndarray
  passage: TokenizedPassage
  passage_number: int
  spans: tuple[tuple[int, int], ...]
  near: tuple[int, ...] = ()


def tokenize_passages(
  tokenizer: Any, passages: Sequence[Passage], length: int
) -> list[TokenizedPassage]:
  """Tokens of titles and texts, cut to a length.

  Args:
    tokenizer: of the package tokenizers.
    passages: of a corpus.
    length: tokens of a passage at most.
  """
  encoded = tokenizer.encode_batch(
    [embeddings.passage_text(passage) for passage in passages]
  )
  result = []
  for passage, encoding in zip(passages, encoded, strict=True):
    # Where the text begins in `passage_text`.
    text_start = len(embeddings.passage_text(passage)) - len(
      passage.text.rstrip()
    )
    offsets = np.asarray(encoding.offsets[:length], np.int32).reshape(-1, 2)
    of_text = (offsets[:, 0] >= text_start) & (offsets[:, 1] > offsets[:, 0])
    of_text &= offsets[:, 1] - text_start <= _LAST_PLACE
    offsets = np.where(of_text[:, None], offsets - text_start, -1)
    ids = np.asarray(encoding.ids[:length], np.int32)
    result.append(TokenizedPassage(ids, offsets))
  return result


def find_spans(
  passage: TokenizedPassage,
  text: str,
  answers: Iterable[str],
  answer_tokens: int,
) -> tuple[tuple[int, int], ...]:
  """First and last tokens of every place where an answer stands.

  Args:
    passage: tokens and places.
    text: of the passage.
    answers: any of them counts.
    answer_tokens: of the longest span.

  Returns:
    Pairs of token numbers; none for an answer that does not begin and end
    where words and tokens do.
  """
  starts = {int(s): i for i, (s, _) in enumerate(passage.offsets) if s >= 0}
  ends = {int(e): i for i, (_, e) in enumerate(passage.offsets) if e >= 0}
  found = set()
  for answer in filter(None, (answer.strip() for answer in answers)):
    place = text.find(answer)
    while place >= 0:
      end = place + len(answer)
      first, last = starts.get(place), ends.get(end)
      if first is not None and last is not None:
        whole = not (cuts(text, place) or cuts(text, end))
        if whole and first <= last < first + answer_tokens:
          found.add((first, last))
      place = text.find(answer, place + 1)
  return tuple(sorted(found))


def cuts(text: str, place: int) -> bool:
  """Whether a word goes on over a place; tokens may be parts of words."""
  return (
    0 < place < len(text)
    and text[place - 1].isalnum()
    and text[place].isalnum()
  )


def gold_context(record: Record) -> Context | None:
  """The passage to learn from: the one named, or the first with the answer."""
  gold = record.extra.get('gold')
  for context in record.contexts:
    if context.id == gold:
      return context
  for context in record.contexts:
    if context.has_answer or any(a in context.text for a in record.answers):
      return context
  return None


def make_examples(
  tokenizer: Any, records: Sequence[Record], config: PhraseConfig
) -> list[Example]:
  """Questions whose answer stands in a passage that came with them.

  Args:
    tokenizer: of the package tokenizers.
    records: questions with passages and answers.
    config: lengths.

  Returns:
    One example per question that can be learnt from; the others are left out.
  """
  pairs = [(r, c) for r in records if (c := gold_context(r)) is not None]
  if not pairs:
    return []
  passages = tokenize_passages(
    tokenizer,
    [context.passage for _, context in pairs],
    config.passage_length,
  )
  questions = question_ids(
    tokenizer, [record.question for record, _ in pairs], config.question_length
  )
  result, asked = [], []
  numbers: dict[str, int] = {}
  for (record, context), passage, question in zip(
    pairs, passages, questions, strict=True
  ):
    spans = find_spans(
      passage, context.text, record.answers, config.answer_tokens
    )
    if spans:
      number = numbers.setdefault(context.id, len(numbers))
      result.append(Example(question, passage, number, spans))
      asked.append(record)
  # Only now are all the passages that have examples known.
  return [
    dataclasses.replace(example, near=_near(example, record, numbers))
    for example, record in zip(result, asked, strict=True)
  ]


def _near(example, record, numbers) -> tuple[int, ...]:
  found = (numbers.get(context.id) for context in record.contexts)
  return tuple(n for n in found if n not in (None, example.passage_number))


def question_ids(
  tokenizer: Any, questions: Sequence[str], length: int
) -> list[np.ndarray]:
  """Token ids of questions, cut on the right to a length.

  Raises:
    ValueError: an empty question.
  """
  for number, question in enumerate(questions):
    if not question.strip():
      raise ValueError(
        f'Question {number} of {len(questions)} is empty; expected some text.'
      )
  return [
    np.asarray(encoding.ids[:length], np.int32)
    for encoding in tokenizer.encode_batch(list(questions))
  ]


def padded(
  rows: Sequence[np.ndarray], length: int
) -> tuple[np.ndarray, np.ndarray]:
  """Token ids int32 [rows, length] and where they are real, bool."""
  ids = np.zeros((len(rows), length), np.int32)
  mask = np.zeros((len(rows), length), bool)
  for number, row in enumerate(rows):
    ids[number, : len(row)] = row
    mask[number, : len(row)] = True
  return ids, mask


def make_batch(
  examples: Sequence[Example], config: PhraseConfig
) -> dict[str, np.ndarray]:
  """Examples as the arrays that `model.loss` takes.

  Returns:
    passage_ids, passage_mask, answerable, starts, ends [batch, passage
    length]; question_ids, question_mask [batch, question length];
    passage_numbers int32 [batch].
  """
  length = config.passage_length
  passage_ids, passage_mask = padded(
    [example.passage.token_ids for example in examples], length
  )
  question_ids_, question_mask = padded(
    [example.question for example in examples], config.question_length
  )
  answerable, starts, ends = (
    np.zeros(passage_mask.shape, bool) for _ in range(3)
  )
  for row, example in enumerate(examples):
    answerable[row, : len(example.passage.token_ids)] = (
      example.passage.answerable
    )
    first, last = np.transpose(example.spans)
    starts[row, first] = True
    ends[row, last] = True
  return {
    'passage_ids': passage_ids,
    'passage_mask': passage_mask,
    'answerable': answerable,
    'starts': starts,
    'ends': ends,
    'question_ids': question_ids_,
    'question_mask': question_mask,
    'passage_numbers': np.asarray(
      [example.passage_number for example in examples], np.int32
    ),
  }
