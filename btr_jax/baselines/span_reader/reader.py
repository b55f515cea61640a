"""Answers questions from passages, in any mode, from a cache or without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import functools
import hashlib
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import UInt8
import numpy as np

from btr_jax import cache as cache_lib
from btr_jax.baselines.span_reader import config as config_lib
from btr_jax.baselines.span_reader import files, network, spans
from btr_jax.baselines.span_reader import tokenizer as tokenizer_lib
from btr_jax.cache import builder, compression, shard_encoder
from btr_jax.cache.plan import Share
from btr_jax.data.records import Passage
from btr_jax.models.token_codec import CodecLayout

_ENCODE_BATCH = 32
_FLOAT_BYTES = 4
# Readers of one architecture share their programs.
_compiled = functools.partial(jax.jit, static_argnames=('config', 'mode'))


class SpanReader:
  """A span reader, ready to answer."""

  def __init__(self, loaded: files.Loaded, mode: str | None = None):
    """Moves the parameters to the device.

    Args:
      loaded: from `files.load` or `files.from_encoder`.
      mode: joint, decomposed or binary; None takes what it was trained as.
    """
    self.mode = mode or loaded.mode
    config_lib.check_mode(self.mode)
    self.config = loaded.config
    self.tokenizer = loaded.tokenizer
    self.fingerprint = loaded.fingerprint
    self.provenance: Mapping[str, Any] = loaded.provenance
    self._params = jax.device_put(loaded.params)
    self._cache: cache_lib.CacheStore | None = None
    self._numbers: dict[tuple[str, str], int] = {}

  @classmethod
  def load(cls, path: str | os.PathLike, mode: str | None = None) -> SpanReader:
    """Reads a reader's folder; ValueError where it is none."""
    return cls(files.load(path), mode)

  @property
  def codec_layout(self) -> CodecLayout:
    """Bytes per token of the cache."""
    return CodecLayout('sign', self.config.bits_bytes, 0)

  @property
  def has_cache(self) -> bool:
    """Whether passages come from a cache."""
    return self._cache is not None

  @property
  def model_bytes(self) -> int:
    """Of all parameters."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(self._params))

  def storage(self) -> dict[str, Any] | None:
    """What the files of its cache take; None without one."""
    if self._cache is None:
      return None
    return cache_lib.storage_report(self._cache.path)

  @property
  def bytes_per_token(self) -> float | None:
    """What is kept of a passage token: on disk if there is a cache.

    Without one, the bytes of its states (float32 in mode decomposed); None in
    mode joint, which keeps nothing.
    """
    if (stored := self.storage()) is not None:
      return stored['total']['bytes_per_token']
    if self.mode == 'joint':
      return None
    if self.mode == 'decomposed':
      return float(_FLOAT_BYTES * self.config.bert.embed_dim)
    return float(self.config.bits_bytes)

  def build_cache(
    self,
    path: str | os.PathLike,
    passages: Sequence[Passage],
    *,
    share: Share = Share(),  # noqa: B008 (frozen)
    progress: builder.Progress | None = None,
  ) -> None:
    """Writes the bits of passages, or goes on with a cache of the same.

    Args:
      path: folder of the cache; `btr inspect-cache` and
        `cache.compression.compress` take it as any other.
      passages: passage i gets the number i.
      share: of several writers.
      progress: called with (passages done, passages of the share).

    Raises:
      ValueError: the reader is not of mode binary.
      CacheMismatchError: the folder holds another cache.
    """
    if self.mode != 'binary':
      raise ValueError(
        f'The reader is in mode {self.mode!r}; only mode binary has a cache.'
      )

    def tokens_of(start: int, stop: int) -> np.ndarray:
      found = self.tokenizer.passages(passages[start:stop])
      return tokenizer_lib.padded(
        [passage.ids for passage in found], self.config.passage_length
      )

    builder.build(
      path,
      tokens_of,
      len(passages),
      lambda tokens: {'bits': self._encode(tokens)},
      self.codec_layout,
      self._fingerprints(),
      vocab_size=self.config.bert.vocab_size,
      batch_size=_ENCODE_BATCH,
      share=share,
      progress=progress,
    )

  def open_cache(
    self, path: str | os.PathLike, passages: Sequence[Passage]
  ) -> None:
    """Reads the bits of these passages from a cache, compressed or not.

    Args:
      path: of the cache.
      passages: those that it was built of, in their order: they tell the
        number of a passage, and the text that answers are cut from.

    Raises:
      ValueError: another number of passages.
      CacheMismatchError: it belongs to another reader.
    """
    store = cache_lib.CacheStore.open(path, self._fingerprints())
    if store.num_passages != len(passages):
      raise ValueError(
        f'The cache {path} holds {store.num_passages} passages; given were '
        f'{len(passages)}. Give those that it was built of.'
      )
    self._cache = store
    self._numbers = {
      (passage.title, passage.text): number
      for number, passage in enumerate(passages)
    }

  def use_cache(
    self,
    path: str | os.PathLike,
    passages: Sequence[Sequence[Passage]],
    ratio: float | None = None,
  ) -> None:
    """Builds (if need be) and opens a cache of all passages of questions.

    Args:
      path: its folder.
      passages: of each question.
      ratio: compress it by this share, stop words shared, and read the copy
        beside it.
    """
    unique = list(
      {(p.title, p.text): p for part in passages for p in part}.values()
    )
    self.build_cache(path, unique)
    if ratio is not None:
      whole = pathlib.Path(path)
      path = whole.with_name(f'{whole.name}-compressed-{ratio:g}')
      if not compression.is_compressed(path):
        compression.compress(
          whole,
          path,
          compression.Settings(ratio),
          self.tokenizer.stop_ids(),
        )
    self.open_cache(path, unique)

  def _encode(self, tokens: np.ndarray) -> jax.Array:
    return _encode(self._params, tokens, config=self.config, mode=self.mode)

  def _fingerprints(self) -> dict[str, str]:
    config = hashlib.sha256(repr(self.config).encode()).hexdigest()
    return {
      'model': self.fingerprint,
      'codec': f'span_reader sign {config[:16]}',
      'tokenizer': self.tokenizer.fingerprint,
    }

  def answer(
    self,
    questions: Sequence[str],
    passages: Sequence[Sequence[Passage]],
    batch_size: int | None = None,
  ) -> list[str]:
    """The best span of each question's passages, as it stands in the text.

    Args:
      questions: any number, read in one batch.
      passages: of each question, one or more.
      batch_size: rows to pad the batch to, so that a shorter last batch is
        not compiled anew.

    Returns:
      Answers; '' where the passages have no text.

    Raises:
      ValueError: a question without passages, or another number of lists.
    """
    if len(questions) != len(passages):
      raise ValueError(
        f'{len(questions)} questions and {len(passages)} lists of passages; '
        'expected as many of one as of the other.'
      )
    if not questions:
      return []
    for question, own in zip(questions, passages, strict=True):
      if not own:
        raise ValueError(
          f'The question {question!r} has no passages; expected at least one.'
        )
    flat = [passage for own in passages for passage in own]
    tokens = self.tokenizer.passages(flat)
    found = self._spans(questions, passages, tokens, batch_size)
    answers, first = [], 0
    for row, own in enumerate(passages):
      place = int(found.passage[row])
      answers.append(
        _cut(
          own[place].text,
          tokens[first + place],
          int(found.start[row]),
          int(found.end[row]),
        )
        if place < len(own)
        else ''
      )
      first += len(own)
    return answers

  def _spans(
    self,
    questions: Sequence[str],
    passages: Sequence[Sequence[Passage]],
    tokens: Sequence[tokenizer_lib.PassageTokens],
    batch_size: int | None,
  ) -> spans.Spans:
    rows = max(batch_size or 0, len(questions))
    count = max(map(len, passages))
    # A question of padding is [PAD] alone: its attention finds no token, and
    # nobody looks at its span.
    asked = np.zeros((rows, self.config.question_length), np.int32)
    asked[: len(questions)] = self.tokenizer.questions(questions)
    longest = max(len(passage.ids) for passage in tokens)
    buckets = shard_encoder.length_buckets(self.config.passage_length)
    length = next(size for size in buckets if size >= longest)
    read = np.zeros((rows, count, length), np.int32)
    slots = [
      (row, column)
      for row, own in enumerate(passages)
      for column in range(len(own))
    ]
    for (row, column), passage in zip(slots, tokens, strict=True):
      read[row, column, : len(passage.ids)] = passage.ids
    if self.mode == 'joint':
      found = _answer_joint(self._params, asked, read, config=self.config)
    else:
      kept = self._kept(passages, read)
      found = _answer_apart(
        self._params, asked, read, kept, config=self.config, mode=self.mode
      )
    return jax.device_get(found)

  def _kept(
    self, passages: Sequence[Sequence[Passage]], read: np.ndarray
  ) -> np.ndarray | jax.Array:
    """What stands for the passages: their states, or their bits."""
    if self._cache is None:
      flat = read.reshape(-1, read.shape[-1])
      parts = []
      # Bits in the batches of the cache's builder: the same shapes, the same
      # bits. States need not be the same to the last digit.
      size = _ENCODE_BATCH if self.mode == 'binary' else len(flat)
      for start in range(0, len(flat), size):
        part = flat[start : start + size]
        missing = size - len(part)
        whole = np.pad(part, ((0, missing), (0, 0)))
        parts.append(self._encode(whole)[: len(part)])
      joined = jnp.concatenate(parts)
      return joined.reshape(*read.shape, joined.shape[-1])
    numbers = np.full(read.shape[:2], -1, np.int64)
    for row, own in enumerate(passages):
      for column, passage in enumerate(own):
        number = self._numbers.get((passage.title, passage.text))
        if number is None:
          raise ValueError(
            f'The passage {passage.id!r} ({passage.title!r}) is not in the '
            f'cache {self._cache.path}; build it of all passages.'
          )
        numbers[row, column] = number
    return self._look_up(numbers, read)

  def _look_up(
    self, numbers: np.ndarray, read: np.ndarray
  ) -> UInt8[np.ndarray, 'batch passages length bits_bytes']:
    found = self._cache.lookup(numbers, read.shape[-1])
    if not np.array_equal(found.token_ids, read):
      raise ValueError(
        f'The cache {self._cache.path} holds other tokens than these passages '
        'have; build it of the same texts.'
      )
    return found.bits


def _cut(
  text: str, tokens: tokenizer_lib.PassageTokens, start: int, end: int
) -> str:
  if not tokens.places:
    return ''
  first, behind = tokens.span(start, end)
  return text[first:behind]


@_compiled
def _encode(params, tokens, config, mode):
  """States in mode decomposed, packed bits in mode binary."""
  states = network.encode_passages(params, tokens, config)
  if mode == 'binary':
    return network.pack(network.to_signs(params, states))
  return states


@_compiled
def _answer_joint(
  params, question_tokens, passage_tokens, config, mode='joint'
):
  del mode
  question, passage = network.joint_states(
    params, question_tokens, passage_tokens, config
  )
  scores, _ = network.read(
    params, question_tokens, question, passage_tokens, passage, config
  )
  return spans.best(scores, config.answer_length)


@_compiled
def _answer_apart(params, question_tokens, passage_tokens, kept, config, mode):
  passage = kept
  if mode == 'binary':
    passage = network.from_signs(params, network.unpack(kept))
  question = network.encode_questions(params, question_tokens, config)
  count = passage_tokens.shape[1]
  question = jnp.repeat(question[:, None], count, axis=1)
  scores, _ = network.read(
    params, question_tokens, question, passage_tokens, passage, config
  )
  return spans.best(scores, config.answer_length)
