"""Training batches: windows of passages, with several questions to each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses
import hashlib
import json

import numpy as np

from btr_jax.baselines.span_reader import tokenizer as tokenizer_lib
from btr_jax.data.records import Passage, Record


@dataclasses.dataclass(frozen=True)
class BatchShape:
  """Sizes of a training batch.

  Attributes:
    questions: of a batch.
    passages: different ones in a batch, at most.
    passage_length: tokens; longer passages are cut to a window about an
      answer.
    passages_per_question: its own, and others of the batch as distractors.
    questions_per_passage: of one passage in a batch, at most.
  """

  questions: int = 16
  passages: int = 12
  passage_length: int = 96
  passages_per_question: int = 1
  questions_per_passage: int = 4

  def __post_init__(self):
    for field in dataclasses.fields(self):
      if getattr(self, field.name) < 1:
        raise ValueError(
          f'{field.name} is {getattr(self, field.name)}; expected at least 1.'
        )
    if self.passages_per_question > self.passages:
      raise ValueError(
        f'passages_per_question is {self.passages_per_question}; expected at '
        f'most the {self.passages} passages of a batch.'
      )


@dataclasses.dataclass(frozen=True)
class _Question:
  ids: np.ndarray
  spans: list[tuple[int, int]]  # first and last token, in the whole text


@dataclasses.dataclass(frozen=True)
class _Group:
  """A passage, and all questions about it."""

  tokens: tokenizer_lib.PassageTokens
  questions: list[_Question]


@dataclasses.dataclass(frozen=True)
class _Piece:
  """A window of a passage, and questions whose answers are in it."""

  tokens: tokenizer_lib.PassageTokens
  first: int  # token of the text
  questions: list[_Question]


def answer_places(text: str, answer: str) -> list[tuple[int, int]]:
  """Characters of all occurrences of an answer as words of a text.

  As it is written if it stands there so, otherwise in any case.
  """
  for where, what in ((text, answer), (text.lower(), answer.lower())):
    if len(where) != len(text):  # lower case of a few letters is longer
      continue
    found, at = [], where.find(what) if what else -1
    while at >= 0:
      stop = at + len(what)
      before, behind = where[at - 1 : at], where[stop : stop + 1]
      inside = what[0].isalnum() and before.isalnum()
      if not inside and not (what[-1].isalnum() and behind.isalnum()):
        found.append((at, stop))
      at = where.find(what, at + 1)
    if found:
      return found
  return []


def token_spans(
  places: Sequence[tuple[int, int]], characters: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
  """First and last token of each run of characters.

  Args:
    places: of the tokens of a text, as in PassageTokens.
    characters: runs of characters; those without a token are left out.
  """
  starts = np.array([start for start, _ in places], np.int64)
  stops = np.array([stop for _, stop in places], np.int64)
  result = []
  for first, behind in characters:
    start = int(np.searchsorted(stops, first, 'right'))
    end = int(np.searchsorted(starts, behind, 'left')) - 1
    if start <= end:
      result.append((start, end))
  return result


class TrainingBatches:
  """Batches by step: the same step of the same seed is the same batch."""

  def __init__(
    self,
    records: Sequence[Record],
    tokenizer: tokenizer_lib.SpanTokenizer,
    shape: BatchShape,
  ):
    """Tokenizes; questions without their answer in the passage are left out.

    Args:
      records: each with one passage or more; the first that holds an answer
        is trained on.
      tokenizer: of the reader.
      shape: of a batch.

    Raises:
      ValueError: too few questions for one batch.
    """
    self.shape = shape
    self._config = tokenizer.config
    groups: dict[tuple[str, str], list] = {}
    digest = hashlib.sha256()
    for record in records:
      chosen = _gold(record)
      if chosen is not None:
        passage, characters = chosen
        used = [record.question, passage.title, passage.text, characters]
        digest.update(json.dumps(used).encode())
        key = (passage.title, passage.text)
        groups.setdefault(key, []).append((record.question, characters))
    self.fingerprint = digest.hexdigest()
    passages = [Passage('', title, text) for title, text in groups]
    # Whole texts: the window is cut when the batch is made.
    tokens = tokenizer.passages(passages, length=10**6)
    questions = tokenizer.questions(
      [question for found in groups.values() for question, _ in found]
    )
    row = 0
    self._groups: list[_Group] = []
    for whole, found in zip(tokens, groups.values(), strict=True):
      asked = []
      for _, characters in found:
        spans = token_spans(whole.places, characters)
        # What a window can hold, and an answer be long.
        most = min(
          self._config.answer_length, shape.passage_length - whole.first - 1
        )
        spans = [s for s in spans if s[1] - s[0] < most]
        if spans:
          asked.append(_Question(questions[row], spans))
        row += 1
      if asked:
        self._groups.append(_Group(whole, asked))
    self.num_questions = sum(len(g.questions) for g in self._groups)
    if len(self._groups) < shape.passages:
      raise ValueError(
        f"{len(self._groups)} of {len(records)} questions' passages hold an "
        f'answer; expected at least {shape.passages}, for one batch.'
      )

  @property
  def num_passages(self) -> int:
    """Different passages."""
    return len(self._groups)

  def from_step(self, step: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
    """Batches from a step on, without end."""
    epoch, passed = 0, 0
    while True:
      generator = np.random.default_rng((seed, epoch))
      parts = list(self._parts(generator))
      for number, part in enumerate(parts):
        if passed + number >= step:
          yield self._batch(part, np.random.default_rng((seed, epoch, number)))
      passed += len(parts)
      epoch += 1

  def _parts(self, generator) -> Iterator[list[_Piece]]:
    """Pieces for one batch each, in a random order."""
    shape = self.shape
    pieces = [
      piece
      for group in self._groups
      for piece in self._pieces(group, generator)
    ]
    part, filled = [], 0
    for index in generator.permutation(len(pieces)):
      piece = pieces[index]
      full = filled + len(piece.questions) > shape.questions
      if full or len(part) == shape.passages:
        yield part
        part, filled = [], 0
      part.append(piece)
      filled += len(piece.questions)
    if len(part) == shape.passages or filled == shape.questions:
      yield part
    # What is left over is too little for a batch; the next epoch has it.

  def _pieces(self, group, generator) -> Iterator[_Piece]:
    """Windows of a passage, until every question has its answer in one."""
    room = self.shape.passage_length - group.tokens.first - 1
    length = len(group.tokens.places)
    left = [
      group.questions[i] for i in generator.permutation(len(group.questions))
    ]
    while left:
      first = 0
      if length > room:
        # Some answer is in it, at no preferred place.
        spans = left[0].spans
        start, end = spans[generator.integers(len(spans))]
        least = max(0, end + 1 - room)
        most = max(least, min(start, length - room))
        first = int(generator.integers(least, most + 1))
        # As at reading time, most passages begin at their beginning.
        if least == 0 and generator.random() < 0.5:
          first = 0
      inside = [q for q in left if _within(q.spans, first, first + room)]
      inside = inside[: self.shape.questions_per_passage]
      taken = set(map(id, inside))
      left = [question for question in left if id(question) not in taken]
      yield _Piece(group.tokens, first, inside)

  def _batch(
    self, part: Sequence[_Piece], generator: np.random.Generator
  ) -> dict[str, np.ndarray]:
    shape, length = self.shape, self.shape.passage_length
    targets = (shape.questions, shape.passages_per_question, length)
    batch = {
      'question_tokens': np.zeros(
        (shape.questions, self._config.question_length), np.int32
      ),
      'passage_tokens': np.zeros((shape.passages, length), np.int32),
      'passage_of': np.zeros(targets[:2], np.int32),
      'starts': np.zeros(targets, np.float32),
      'ends': np.zeros(targets, np.float32),
      'weights': np.zeros(shape.questions, np.float32),
    }
    row = 0
    for place, piece in enumerate(part):
      head, room = piece.tokens.first, length - piece.tokens.first - 1
      text = piece.tokens.ids[head:-1][piece.first : piece.first + room]
      ids = [*piece.tokens.ids[:head], *text, self._config.separator_id]
      batch['passage_tokens'][place, : len(ids)] = ids
      for question in piece.questions:
        batch['question_tokens'][row] = question.ids
        others = [i for i in range(len(part)) if i != place]
        others = generator.permutation(others)[: targets[1] - 1]
        batch['passage_of'][row] = place
        batch['passage_of'][row, 1 : 1 + len(others)] = others
        for a, b in _within(
          question.spans, piece.first, piece.first + len(text)
        ):
          batch['starts'][row, 0, head + a - piece.first] = 1.0
          batch['ends'][row, 0, head + b - piece.first] = 1.0
        batch['weights'][row] = 1.0
        row += 1
    # Rows of padding get a question, so that no row is empty.
    batch['question_tokens'][row:] = batch['question_tokens'][0]
    return batch


def _within(spans, first: int, behind: int) -> list[tuple[int, int]]:
  return [(a, b) for a, b in spans if first <= a and b < behind]


def _gold(record: Record):
  """The first passage with an answer, and where that stands."""
  for context in record.contexts:
    for answer in record.answers:
      characters = answer_places(context.text, answer)
      if characters:
        return context, characters
  return None
