"""The engine: retrieve, look up, encode, decode, with the time of each.

Token ids of passages come from the cache where there is one. Without it they
are made once per passage and kept, so that repeated questions do not pay for
the tokenizer. Passages of one batch are padded to the longest of them, rounded
up to a multiple of `LENGTH_MULTIPLE`; that is the same for all modes, so none
gains by padding less. Every shape is compiled once, ahead of its first use,
and the time for it is kept apart (`compile_seconds`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import functools
import time
from typing import Any

import jax
import numpy as np

from btr_jax import config as config_lib
from btr_jax.cache.store import CacheStore
from btr_jax.data import encoding, prompts
from btr_jax.data.records import Context, Passage, Record
from btr_jax.models import reader as reader_lib
from btr_jax.models.reader_files import LoadedReader
from btr_jax.retrieval.interface import Retriever

LENGTH_MULTIPLE = 16
# Tokenized passages that are kept: at most some 30 MB.
_KEPT_PASSAGES = 1 << 16


@dataclasses.dataclass(frozen=True)
class Timings:
  """Seconds that one batch of questions took, part by part.

  Attributes:
    retrieve: finding the passages; 0 where they were given.
    look_up: tokenizing the questions, fetching token ids and bits of the
      passages, and moving all of it to the device.
    encode: the encoder.
    decode: the decoder and turning its tokens into text.
  """

  retrieve: float
  look_up: float
  encode: float
  decode: float

  @property
  def total(self) -> float:
    return self.retrieve + self.look_up + self.encode + self.decode

  def to_dict(self) -> dict[str, float]:
    return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Answer:
  """What the reader says.

  Attributes:
    question: as it was asked.
    text: the answer; possibly empty.
    passages: what it was read from, best first.
    timings: of the batch that the question was read in.
  """

  question: str
  text: str
  passages: tuple[Passage, ...]
  timings: Timings


def round_up(value: int, multiple: int) -> int:
  """The smallest multiple that is not below value."""
  return -(-value // multiple) * multiple


class Engine:
  """Answers questions with one reader in one mode."""

  def __init__(
    self,
    reader: LoadedReader,
    passages: Sequence[Passage] = (),
    retriever: Retriever | None = None,
    cache: CacheStore | None = None,
    mode: str = 'joint',
    num_passages: int | None = None,
  ):
    """Moves the parameters to the device; nothing is compiled yet.

    Args:
      reader: from `load_reader`.
      passages: the corpus, in the order in which retriever and cache number
        it; may be empty for `read` without a cache.
      retriever: needed by `answer` only.
      cache: bits of the corpus's passages; for mode `binary` only. Without
        one, that mode computes the bits for every question.
      mode: `joint`, `decomposed` or `binary`.
      num_passages: passages read per question; None takes the reader's limit.

    Raises:
      ValueError: unknown mode, a cache in a mode that does not read it, a
        cache of another number of passages, or num_passages below 1.
    """
    config_lib.check_choice('mode', mode, config_lib.MODES)
    if cache is not None and mode != 'binary':
      raise ValueError(
        f'A cache was given to mode {mode!r}; only mode binary reads one. '
        'Leave it out, or use mode binary.'
      )
    if cache is not None and cache.num_passages != len(passages):
      raise ValueError(
        f'The cache holds {cache.num_passages} passages and the corpus '
        f'{len(passages)}; give the corpus that the cache was built from.'
      )
    if num_passages is None:
      num_passages = reader.limits.num_passages
    if num_passages < 1:
      raise ValueError(f'num_passages is {num_passages}; expected at least 1.')
    self.mode = mode
    self.num_passages = num_passages
    self.compile_seconds = 0.0
    self._reader = reader
    self._passages = passages
    self._retriever = retriever
    self._cache = cache
    self._params = jax.device_put(reader.params)
    self._executables: dict[Any, Callable[..., Any]] = {}
    self._tokens = functools.lru_cache(_KEPT_PASSAGES)(self._tokenize)
    self._number_of = (
      {passage.id: number for number, passage in enumerate(passages)}
      if cache is not None
      else {}
    )

  def answer(self, questions: Sequence[str]) -> list[Answer]:
    """Retrieves passages for the questions and reads the answers from them.

    Args:
      questions: read as one batch. One that is too long loses its beginning,
        with a warning.

    Returns:
      One answer per question.

    Raises:
      ValueError: an empty question, one that nothing is found for, or an
        engine without retriever.
    """
    if self._retriever is None:
      raise ValueError(
        'This engine has no retriever; give it one, or use `read` with '
        'records that hold their passages.'
      )
    start = time.perf_counter()
    question_tokens = self._question_tokens(questions)
    tokenized = time.perf_counter()
    hits = self._retriever.search(list(questions), self.num_passages)
    retrieve = time.perf_counter() - tokenized
    for question, hits_of_question in zip(questions, hits, strict=True):
      if not hits_of_question:
        raise ValueError(
          f'No passage was found for the question {question!r}: the corpus '
          'holds none of its words. Ask in the words of the corpus.'
        )
    records = [
      Record(
        id=question,
        question=question,
        answers=(),
        contexts=tuple(
          self._context(hit.passage, hit.score) for hit in hits_of_question
        ),
      )
      for question, hits_of_question in zip(questions, hits, strict=True)
    ]
    return self._read(
      records, question_tokens, tokenized - start, retrieve=retrieve
    )

  def read(self, records: Sequence[Record]) -> list[Answer]:
    """Reads the answers from the first passages in the records.

    Args:
      records: read as one batch.

    Returns:
      One answer per record.

    Raises:
      ValueError: an empty question, a question without passages, or, with a
        cache, a passage that is not in the corpus.
    """
    start = time.perf_counter()
    question_tokens = self._question_tokens([r.question for r in records])
    tokenized = time.perf_counter() - start
    return self._read(records, question_tokens, tokenized, retrieve=0.0)

  def _question_tokens(self, questions: Sequence[str]) -> np.ndarray:
    return encoding.encode_questions(
      self._reader.vocabulary, questions, self._reader.limits.question_length
    )

  def _context(self, number: int, score: float) -> Context:
    passage = self._passages[number]
    return Context(passage.id, passage.title, passage.text, float(score))

  def _read(
    self,
    records: Sequence[Record],
    question_tokens: np.ndarray,
    tokenize: float,
    retrieve: float,
  ) -> list[Answer]:
    if not records:
      return []
    found = [record.contexts[: self.num_passages] for record in records]
    for record, contexts in zip(records, found, strict=True):
      if not contexts:
        raise ValueError(
          f'The question {record.question!r} has no passages to read; '
          'retrieve some first, or use `answer`.'
        )
    start = time.perf_counter()
    batch = jax.device_put(self._batch(question_tokens, found))
    jax.block_until_ready(batch)
    look_up = time.perf_counter() - start

    encode = self._executable('encode', self._encode, batch)
    start = time.perf_counter()
    memory = jax.block_until_ready(encode(self._params, batch))
    encode_seconds = time.perf_counter() - start

    decode = self._executable('decode', self._decode, memory)
    start = time.perf_counter()
    token_ids = np.asarray(decode(self._params, memory))
    texts = [self._text(row) for row in token_ids[: len(records)]]
    decode_seconds = time.perf_counter() - start

    timings = Timings(
      retrieve, tokenize + look_up, encode_seconds, decode_seconds
    )
    return [
      Answer(
        question=record.question,
        text=text,
        passages=tuple(context.passage for context in contexts),
        timings=timings,
      )
      for record, contexts, text in zip(records, found, texts, strict=True)
    ]

  # ------------------------------------------------------------------- batches

  def _batch(
    self, question_tokens: np.ndarray, found: Sequence[Sequence[Context]]
  ) -> dict[str, np.ndarray]:
    """Model features, padded in batch, passages and length.

    The number of questions is padded to a power of two by repeating the first,
    so that any number of questions meets few shapes.
    """
    rows = 1 << (len(found) - 1).bit_length()
    spare = rows - len(found)
    question_tokens = np.concatenate(
      [question_tokens, np.repeat(question_tokens[:1], spare, axis=0)]
    )
    found = [*found, *[found[0]] * spare]
    features = (
      self._computed_features(found)
      if self._cache is None
      else self._cached_features(found)
    )
    return {'question_tokens': question_tokens, **features}

  def _padded_length(self, longest: int) -> int:
    limit = self._reader.limits.passage_length
    return min(round_up(max(longest, 1), LENGTH_MULTIPLE), limit)

  def _tokenize(self, title: str, text: str) -> np.ndarray:
    limit = self._reader.limits.passage_length
    row = encoding.encode_passages(
      self._reader.vocabulary, [(title, text)], limit
    )[0]
    return np.asarray(row[row != 0])

  def _computed_features(
    self, found: Sequence[Sequence[Context]]
  ) -> dict[str, np.ndarray]:
    tokens = [[self._tokens(c.title, c.text) for c in row] for row in found]
    length = self._padded_length(max(len(t) for row in tokens for t in row))
    result = np.zeros((len(found), self.num_passages, length), np.int32)
    for i, row in enumerate(tokens):
      for j, ids in enumerate(row):
        result[i, j, : len(ids)] = ids
    return {'passage_tokens': result}

  def _cached_features(
    self, found: Sequence[Sequence[Context]]
  ) -> dict[str, np.ndarray]:
    numbers = np.full((len(found), self.num_passages), -1, np.int64)
    for i, row in enumerate(found):
      for j, context in enumerate(row):
        numbers[i, j] = self._number(context)
    longest = int(self._cache.lengths(numbers).max())
    rows = self._cache.lookup(numbers, self._padded_length(longest))
    return {
      'passage_tokens': rows.token_ids,
      'passage_bits': rows.bits,
      'passage_scale': rows.scale,
    }

  def _number(self, context: Context) -> int:
    try:
      return self._number_of[context.id]
    except KeyError:
      raise ValueError(
        f'The passage with id {context.id!r} ({context.title!r}) is not in '
        'the corpus that the cache was built from; give the records that '
        'were retrieved from that corpus, or read without a cache.'
      ) from None

  # ---------------------------------------------------------------- executables

  # What passes between the two is a plain dictionary: compiling ahead of time
  # rebuilds containers around things that are no arrays.

  def _encode(self, params: Any, batch: Any) -> dict[str, jax.Array]:
    encoded = self._reader.model.encode(params, batch, self.mode)
    return {'states': encoded.states, 'mask': encoded.mask}

  def _decode(self, params: Any, memory: Any) -> jax.Array:
    encoded = reader_lib.Encoded(memory['states'], memory['mask'])
    limit = self._reader.limits.answer_length
    return self._reader.model.decode(params, encoded, limit)[0]

  def _executable(
    self, name: str, function: Callable[..., Any], inputs: Any
  ) -> Callable[..., Any]:
    """The compiled function for inputs of this shape."""
    leaves = jax.tree.leaves(inputs)
    key = (name, *((leaf.shape, leaf.dtype) for leaf in leaves))
    if key not in self._executables:
      start = time.perf_counter()
      self._executables[key] = (
        jax.jit(function).lower(self._params, inputs).compile()
      )
      self.compile_seconds += time.perf_counter() - start
    return self._executables[key]

  def _text(self, token_ids: np.ndarray) -> str:
    return prompts.parse_answer(self._reader.vocabulary.decode(token_ids))
