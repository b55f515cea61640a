"""The engine: retrieve, look up, encode, decode, with the time of each.

Token ids of passages come from the cache where there is one. Without it they
are made once per passage and kept, so that repeated questions do not pay for
the tokenizer. Bits go to the device packed. Batches are padded to few lengths
and sizes, the same for all modes, so that none gains by padding less; every
shape is compiled once, ahead of its first use (`warm_up` compiles them all),
and the time for it is kept apart (`compile_seconds`).

An engine may be used from any thread. `stream` looks up the next batch while
the device computes; `server.Server` puts a queue in front of it.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator, Sequence
import concurrent.futures
import dataclasses
import time
from typing import Any

import jax
import numpy as np

from btr_jax import config as config_lib
from btr_jax.cache.store import CacheStore
from btr_jax.data import prompts
from btr_jax.data.records import Passage, Record
from btr_jax.models.reader_files import LoadedReader
from btr_jax.retrieval.interface import Retriever
from btr_jax.serving import features as features_lib
from btr_jax.serving import programs as programs_lib

# Batches that `stream` works on at one time: one is computed, one is looked
# up, one waits.
_BATCHES_IN_FLIGHT = 3


@dataclasses.dataclass(frozen=True)
class Timings:
  """Seconds that one batch of questions took, part by part.

  Attributes:
    retrieve: finding the passages; 0 where they were given.
    look_up: tokenizing the questions, fetching token ids and bits of the
      passages, and moving all of it to the device.
    encode: the encoder; with fused programs the decoder as well.
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


@dataclasses.dataclass(frozen=True)
class Started:
  """A batch that the device works on.

  Attributes:
    found: questions with their passages.
    token_ids: the answers, perhaps still being computed.
    retrieve: seconds, as in `Timings`, and also the next.
    look_up: seconds.
    begun: when the device was given the batch.
    encode: seconds; None with fused programs.
  """

  found: tuple[tuple[str, tuple[Passage, ...]], ...]
  token_ids: jax.Array
  retrieve: float
  look_up: float
  begun: float
  encode: float | None


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
    inference: config_lib.InferenceConfig = config_lib.DEFAULT_INFERENCE,
    config: config_lib.EngineConfig = config_lib.DEFAULT_ENGINE,
  ):
    """Moves the parameters to the device; nothing is compiled yet.

    Args:
      reader: from `load_reader`.
      passages: the corpus, in the order in which retriever and cache number
        it; may be empty for `read` without a cache.
      retriever: needed for questions that come without passages.
      cache: bits of the corpus's passages; for mode `binary` only. Without
        one, that mode computes the bits for every question.
      mode: `joint`, `decomposed` or `binary`.
      num_passages: passages read per question; None takes the reader's limit.
      inference: form of cross-attention, merging, beams.
      config: padding, types, programs.

    Raises:
      ValueError: unknown mode, a cache in a mode that does not read it, a
        cache of another number of passages, num_passages below 1, or a length
        bucket beyond the reader's limit.
    """
    config_lib.check_choice('mode', mode, config_lib.MODES)
    if cache is not None and mode != 'binary':
      raise ValueError(
        f'A cache was given to mode {mode!r}; only mode binary reads one. '
        'Leave it out, or use mode binary.'
      )
    if num_passages is None:
      num_passages = reader.limits.num_passages
    if num_passages < 1:
      raise ValueError(f'num_passages is {num_passages}; expected at least 1.')
    if config.compilation_cache:
      programs_lib.use_compilation_cache(config.compilation_cache)
    self.mode = mode
    self.num_passages = num_passages
    self.config = config
    self.features = features_lib.Features(
      reader, passages, cache, num_passages, config.length_buckets
    )
    self._reader = reader
    self._retriever = retriever
    self._programs = programs_lib.Programs(
      reader.model, reader.params, mode, inference, dtype=config.dtype
    )

  @property
  def compile_seconds(self) -> float:
    """Spent compiling so far."""
    return self._programs.compile_seconds

  def warm_up(self, batch_sizes: Sequence[int] | None = None) -> float:
    """Compiles every shape that batches of these sizes can have.

    Args:
      batch_sizes: numbers of questions; None takes all up to `max_batch`.

    Returns:
      The seconds that it took.
    """
    if batch_sizes is None:
      batch_sizes = range(1, self.config.max_batch + 1)
    before = self.compile_seconds
    for rows in sorted({features_lib.padded_rows(n) for n in batch_sizes}):
      for length in self.features.lengths:
        batch = self.features.shapes(rows, length)
        if self.config.fused:
          self._programs.compiled('answer', batch)
          continue
        self._programs.compiled('encode', batch)
        memory = jax.eval_shape(
          self._programs.encode, self._programs.params, batch
        )
        self._programs.compiled('decode', memory)
    return self.compile_seconds - before

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
    return self.read(questions)

  def read(self, asked: Sequence[Record | str]) -> list[Answer]:
    """Reads the answers from the first passages in the records.

    Args:
      asked: records with passages, or questions to retrieve some for; read as
        one batch.

    Returns:
      One answer per record.

    Raises:
      ValueError: an empty question, a question without passages, or, with a
        cache, a passage that is not in the corpus.
    """
    return self.finish(self.start(asked)) if asked else []

  def stream(
    self, batches: Iterable[Sequence[Record | str]]
  ) -> Iterator[list[Answer]]:
    """`read` for one batch after the other, look-up and device side by side.

    Args:
      batches: taken from as results are asked for, a few ahead.

    Yields:
      The answers of each batch, in order. Errors as `read`, at their batch.
    """
    with concurrent.futures.ThreadPoolExecutor(1) as looking_up:
      started: collections.deque[Any] = collections.deque()
      for batch in batches:
        started.append(looking_up.submit(self.start, batch) if batch else None)
        if len(started) == _BATCHES_IN_FLIGHT:
          yield self._finish_future(started.popleft())
      while started:
        yield self._finish_future(started.popleft())

  def _finish_future(self, future) -> list[Answer]:
    return [] if future is None else self.finish(future.result())

  def start(self, asked: Sequence[Record | str]) -> Started:
    """Looks a batch up and gives it to the device; `finish` waits for it.

    Args:
      asked: as for `read`, at least one.

    Returns:
      What `finish` needs.
    """
    begun = time.perf_counter()
    questions = [a if isinstance(a, str) else a.question for a in asked]
    question_tokens = self.features.question_tokens(questions)
    tokenized = time.perf_counter()
    records = self._with_passages(asked)
    retrieved = time.perf_counter()
    found = [record.contexts[: self.num_passages] for record in records]
    for record, contexts in zip(records, found, strict=True):
      if not contexts:
        raise ValueError(
          f'The question {record.question!r} has no passages to read; '
          'retrieve some first, or use `answer`.'
        )
    batch = jax.device_put(self.features.batch(question_tokens, found))
    if not self.config.fused:
      jax.block_until_ready(batch)
    looked_up = time.perf_counter()

    token_ids, encode, begun_device = self._compute(batch)
    return Started(
      found=tuple(
        (record.question, tuple(context.passage for context in contexts))
        for record, contexts in zip(records, found, strict=True)
      ),
      token_ids=token_ids,
      retrieve=retrieved - tokenized if any_text(asked) else 0.0,
      look_up=tokenized - begun + looked_up - retrieved,
      begun=begun_device,
      encode=encode,
    )

  def _compute(self, batch) -> tuple[jax.Array, float | None, float]:
    if self.config.fused:
      answer = self._programs.compiled('answer', batch)
      begun = time.perf_counter()
      return answer(self._programs.params, batch), None, begun
    encode = self._programs.compiled('encode', batch)
    begun = time.perf_counter()
    memory = jax.block_until_ready(encode(self._programs.params, batch))
    seconds = time.perf_counter() - begun
    decode = self._programs.compiled('decode', memory)
    begun = time.perf_counter()
    return decode(self._programs.params, memory), seconds, begun

  def finish(self, started: Started) -> list[Answer]:
    """Waits for a batch and turns its tokens into text."""
    token_ids = np.asarray(started.token_ids)
    ready = time.perf_counter()
    texts = [self._text(row) for row in token_ids[: len(started.found)]]
    done = time.perf_counter()
    fused = started.encode is None
    timings = Timings(
      started.retrieve,
      started.look_up,
      ready - started.begun if fused else started.encode,
      done - (ready if fused else started.begun),
    )
    return [
      Answer(question, text, passages, timings)
      for (question, passages), text in zip(started.found, texts, strict=True)
    ]

  def _with_passages(self, asked: Sequence[Record | str]) -> list[Record]:
    questions = [a for a in asked if isinstance(a, str)]
    if not questions:
      return list(asked)
    if self._retriever is None:
      raise ValueError(
        'This engine has no retriever; give it one, or use `read` with '
        'records that hold their passages.'
      )
    hits = iter(self._retriever.search(questions, self.num_passages))
    return [
      self._record(a, next(hits)) if isinstance(a, str) else a for a in asked
    ]

  def _record(self, question: str, hits: Sequence[Any]) -> Record:
    if not hits:
      raise ValueError(
        f'No passage was found for the question {question!r}: the corpus '
        'holds none of its words. Ask in the words of the corpus.'
      )
    contexts = tuple(
      self.features.context(hit.passage, hit.score) for hit in hits
    )
    return Record(question, question, answers=(), contexts=contexts)

  def _text(self, token_ids: np.ndarray) -> str:
    return prompts.parse_answer(self._reader.vocabulary.decode(token_ids))


def any_text(asked: Sequence[Record | str]) -> bool:
  """Whether some of these are questions without passages."""
  return any(isinstance(a, str) for a in asked)
