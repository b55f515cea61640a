"""A trained model's vectors: of a corpus's tokens, and of questions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import functools
from typing import Any

import jax
from jaxtyping import Float32
import numpy as np

from btr_jax.baselines.phrases import files, model, spans
from btr_jax.data.records import Passage

TOKEN = np.dtype(
  [('passage', '<i4'), ('token', '<u2'), ('first', '<u2'), ('last', '<u2')]
)
_LENGTH_MULTIPLE = 16
_BATCH = 32
# Passages encoded in order of length at once.
_CHUNK = 2048


def encode_corpus(
  phrase_model: files.PhraseModel,
  passages: Sequence[Passage],
  filtered: bool,
  progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[tuple[Float32[np.ndarray, 'kept dim'], np.ndarray]]:
  """Vectors and places of all tokens that may begin or end an answer.

  Args:
    phrase_model: trained.
    passages: the corpus.
    filtered: apply the model's filter.
    progress: called with passages done and passages in all.

  Yields:
    For some passages after the other: one row per token, in the order of the
    corpus, and the tokens' places as `TOKEN`.
  """
  config, encoder = phrase_model.config, phrase_model.encoder
  params = jax.device_put(phrase_model.params)
  run = jax.jit(functools.partial(model.token_vectors, encoder=encoder))
  for start in range(0, len(passages), _CHUNK):
    chunk = spans.tokenize_passages(
      phrase_model.tokenizer,
      passages[start : start + _CHUNK],
      config.passage_length,
    )
    order = sorted(range(len(chunk)), key=lambda i: len(chunk[i].token_ids))
    found: list[Any] = [None] * len(chunk)
    for first in range(0, len(order), _BATCH):
      rows = order[first : first + _BATCH]
      longest = len(chunk[rows[-1]].token_ids)
      length = -(-longest // _LENGTH_MULTIPLE) * _LENGTH_MULTIPLE
      length = min(length, config.passage_length)
      # Few shapes: a batch that is not full repeats its last row.
      filled = [*rows, *[rows[-1]] * (_BATCH - len(rows))]
      ids, mask = spans.padded([chunk[i].token_ids for i in filled], length)
      states, logits = jax.device_get(run(params, ids, mask))
      for row, number in enumerate(rows):
        found[number] = _kept(
          chunk[number],
          states[row],
          logits[row],
          phrase_model.thresholds if filtered else None,
          start + number,
        )
      progress(start + min(first + _BATCH, len(order)), len(passages))
    vectors, places = zip(*found, strict=True)
    yield np.concatenate(vectors), np.concatenate(places)


def _kept(passage, states, logits, thresholds, number):
  count = len(passage.token_ids)
  keep = passage.answerable
  if thresholds is not None:
    keep = keep & (logits[:count] >= np.asarray(thresholds)).any(axis=1)
  chosen = np.flatnonzero(keep)
  places = np.zeros(len(chosen), TOKEN)
  places['passage'] = number
  places['token'] = chosen
  places['first'], places['last'] = passage.offsets[chosen].T
  return states[:count][keep].astype(np.float32), places


def make_query_encoder(
  phrase_model: files.PhraseModel,
) -> Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]:
  """Questions -> start and end queries, in few compiled shapes."""
  config, encoder = phrase_model.config, phrase_model.encoder
  params = jax.device_put(phrase_model.params)
  run = jax.jit(functools.partial(model.question_vectors, encoder=encoder))

  def encode(questions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    rows = spans.question_ids(
      phrase_model.tokenizer, questions, config.question_length
    )
    starts, ends = [], []
    for start in range(0, len(rows), _BATCH):
      part = rows[start : start + _BATCH]
      size = 1 << (len(part) - 1).bit_length()
      ids, mask = spans.padded(
        [*part, *[part[-1]] * (size - len(part))], config.question_length
      )
      start_queries, end_queries = jax.device_get(run(params, ids, mask))
      starts.append(start_queries[: len(part)])
      ends.append(end_queries[: len(part)])
    return np.concatenate(starts), np.concatenate(ends)

  return encode
