"""Token vectors of a corpus in faiss, and the best phrases among them.

index.faiss      vectors of the tokens that the filter let through, in the
                 order of the corpus, quantized (scalar, or OPQ and products)
tokens.npy       passage, token, first and last character of each
passages.jsonl   the corpus, for the answers' text
index.json       what it was made from; written last
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import functools
import json
import os
import pathlib
from typing import Any

import jax
from jaxtyping import Float32
import numpy as np

from btr_jax import config as config_lib
from btr_jax.baselines.phrases import files, model, spans
from btr_jax.data import records
from btr_jax.data.records import Passage
from btr_jax.retrieval.encoder import import_extra

FORMAT_VERSION = 1
SETTINGS_FILE = 'index.json'
INDEX_FILE = 'index.faiss'
TOKENS_FILE = 'tokens.npy'
PASSAGES_FILE = 'passages.jsonl'
STORAGES = ('sq8', 'sq4', 'opq', 'float')
TOKEN = np.dtype(
  [('passage', '<i4'), ('token', '<u2'), ('first', '<u2'), ('last', '<u2')]
)
_LENGTH_MULTIPLE = 32
_BATCH = 32
# Passages encoded in order of length at once.
_CHUNK = 2048


@dataclasses.dataclass(frozen=True)
class IndexConfig:
  """How vectors are stored and searched.

  Attributes:
    storage: `sq8` or `sq4` (bits per dimension), `opq` (rotated, then one byte
      for each `opq_dims` dimensions), or `float`.
    opq_dims: see there.
    lists: of an inverted file; 0 searches every vector.
    filtered: leave out tokens that begin and end no answer.
  """

  storage: str = 'sq8'
  opq_dims: int = 4
  lists: int = 0
  filtered: bool = True

  def __post_init__(self):
    config_lib.check_choice('storage', self.storage, STORAGES)
    if self.lists < 0 or self.opq_dims < 1:
      raise ValueError(
        f'lists is {self.lists} and opq_dims {self.opq_dims}; expected at '
        'least 0 and 1.'
      )

  def factory(self, dim: int) -> str:
    """The index as faiss names it.

    Raises:
      ValueError: the vectors do not fall into parts of `opq_dims`.
    """
    inverted = f'IVF{self.lists},' if self.lists else ''
    if self.storage == 'float':
      return f'{inverted}Flat'
    if self.storage != 'opq':
      return inverted + self.storage.upper()
    if dim % self.opq_dims:
      raise ValueError(
        f'opq_dims is {self.opq_dims}; expected a divisor of {dim}.'
      )
    parts = dim // self.opq_dims
    return f'OPQ{parts},{inverted}PQ{parts}'


def encode_corpus(
  phrase_model: files.PhraseModel,
  passages: Sequence[Passage],
  filtered: bool,
  progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Float32[np.ndarray, 'kept dim'], np.ndarray]:
  """Vectors and places of all tokens that may begin or end an answer.

  Args:
    phrase_model: trained.
    passages: the corpus.
    filtered: apply the model's filter.
    progress: called with passages done and passages in all.

  Returns:
    One row per token, in the order of the corpus; places as `TOKEN`.
  """
  config, encoder = phrase_model.config, phrase_model.encoder
  params = jax.device_put(phrase_model.params)
  run = jax.jit(
    lambda params, ids, mask: model.token_vectors(params, ids, mask, encoder)
  )
  vectors, places = [], []
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
    vectors += [rows for rows, _ in found]
    places += [rows for _, rows in found]
  return np.concatenate(vectors), np.concatenate(places)


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


def build(
  folder: str | os.PathLike,
  phrase_model: files.PhraseModel,
  passages: Sequence[Passage],
  config: IndexConfig,
  progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
  """Encodes a corpus and writes the index.

  Args:
    folder: to make.
    phrase_model: trained.
    passages: the corpus.
    config: storage.
    progress: called with passages done and passages in all.

  Returns:
    What index.json says: numbers of tokens, before and after the filter.

  Raises:
    ValueError: no passage, or the filter let nothing through.
  """
  faiss = import_extra('faiss')
  if not len(passages):
    raise ValueError('The corpus holds no passage.')
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  (folder / SETTINGS_FILE).unlink(missing_ok=True)
  vectors, places = encode_corpus(
    phrase_model, passages, config.filtered, progress
  )
  if not len(vectors):
    raise ValueError(
      'The filter let no token through; train longer, or build without it.'
    )
  index = faiss.index_factory(
    vectors.shape[1],
    config.factory(vectors.shape[1]),
    faiss.METRIC_INNER_PRODUCT,
  )
  index.train(vectors)
  index.add(vectors)
  faiss.write_index(index, str(folder / INDEX_FILE))
  np.save(folder / TOKENS_FILE, places)
  records.write_passages(folder / PASSAGES_FILE, passages)
  settings = {
    'format_version': FORMAT_VERSION,
    'model': phrase_model.fingerprint,
    'config': dataclasses.asdict(config),
    'passages': len(passages),
    'tokens': len(vectors),
    'dim': vectors.shape[1],
  }
  records.write_json(folder / SETTINGS_FILE, settings)
  return settings


class PhraseIndex:
  """Finds the phrases of a corpus that fit a question."""

  def __init__(
    self, folder: str | os.PathLike, phrase_model: files.PhraseModel
  ):
    """Opens an index.

    Raises:
      ValueError: there is none, or it was built with another model.
    """
    faiss = import_extra('faiss')
    self.folder = pathlib.Path(folder)
    try:
      settings = json.loads((self.folder / SETTINGS_FILE).read_text('utf-8'))
    except (OSError, ValueError) as error:
      raise ValueError(
        f'{self.folder} holds no finished phrase index: {error}. Build it by '
        '`btr phrases build`.'
      ) from error
    if settings.get('model') != phrase_model.fingerprint:
      raise ValueError(
        f'{self.folder} was built with another phrase model; build it again.'
      )
    self.settings = settings
    self.passages = records.read_passages(self.folder / PASSAGES_FILE)
    self._places = np.load(self.folder / TOKENS_FILE)
    self._index = faiss.read_index(str(self.folder / INDEX_FILE))
    if settings['config']['lists']:
      inverted = faiss.extract_index_ivf(self._index)
      inverted.make_direct_map()  # so that vectors are found by their number
      inverted.nprobe = max(1, settings['config']['lists'] // 16)
    self._answer_tokens = phrase_model.config.answer_tokens

  @property
  def index_bytes(self) -> int:
    """Vectors and places of the tokens; the text is not counted."""
    return sum(
      (self.folder / name).stat().st_size for name in (INDEX_FILE, TOKENS_FILE)
    )

  def search(
    self,
    starts: Float32[np.ndarray, 'questions dim'],
    ends: Float32[np.ndarray, 'questions dim'],
    depth: int,
  ) -> list[list[tuple[float, int, int]]]:
    """The best phrases of each question.

    The `depth` best starts are joined with the best end that may follow, and
    the `depth` best ends with the best start before.

    Args:
      starts: queries.
      ends: queries.
      depth: tokens looked up for either side.

    Returns:
      (score, first token, last token) of each phrase, best first; tokens are
      rows of the index.
    """
    depth = min(depth, self._index.ntotal)
    found = []
    _, near_starts = self._index.search(starts, depth)
    _, near_ends = self._index.search(ends, depth)
    for i in range(len(starts)):
      queries = np.stack([starts[i], ends[i]], axis=1)
      phrases: dict[tuple[int, int], float] = {}
      for hits, forward in ((near_starts[i], True), (near_ends[i], False)):
        self._join(hits[hits >= 0], queries, forward, phrases)
      ranked = sorted(
        ((score, *span) for span, score in phrases.items()), reverse=True
      )
      found.append(ranked)
    return found

  def _join(self, hits, queries, forward, phrases) -> None:
    """Adds the best phrase that begins, or ends, at each hit."""
    if not len(hits):
      return
    reach = np.arange(self._answer_tokens)
    others = hits[:, None] + (reach if forward else -reach)[None, :]
    inside = (others >= 0) & (others < len(self._places))
    others = np.where(inside, others, hits[:, None])
    own, other = self._places[hits][:, None], self._places[others]
    apart = np.abs(other['token'].astype(int) - own['token'])
    fits = (
      inside
      & (other['passage'] == own['passage'])
      & (apart < self._answer_tokens)
    )
    rows, inverse = np.unique(
      np.concatenate([hits, others.ravel()]), return_inverse=True
    )
    scores = self._index.reconstruct_batch(rows) @ queries
    mine, theirs = (0, 1) if forward else (1, 0)
    total = scores[inverse[: len(hits)], mine][:, None] + scores[
      inverse[len(hits) :], theirs
    ].reshape(others.shape)
    total = np.where(fits, total, -np.inf)
    best = np.argmax(total, axis=1)
    for row, column in enumerate(best):
      pair = (int(hits[row]), int(others[row, column]))
      span = pair if forward else pair[::-1]
      phrases[span] = float(total[row, column])

  def text(self, first: int, last: int) -> str:
    """What a phrase says, as it stands in its passage."""
    start, end = self._places[first], self._places[last]
    passage = self.passages[start['passage']]
    return passage.text[start['first'] : end['last']]

  def passage(self, first: int) -> Passage:
    """Where a phrase stands."""
    return self.passages[self._places[first]['passage']]


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
