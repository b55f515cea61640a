"""The best phrases of an index for a question."""

from __future__ import annotations

import json
import os
import pathlib

from jaxtyping import Float32
import numpy as np

from btr_jax.baselines.phrases import files, spans
from btr_jax.baselines.phrases import index as index_lib
from btr_jax.data import records
from btr_jax.data.records import Passage
from btr_jax.retrieval.encoder import import_extra


class PhraseIndex:
  """Finds the phrases of a corpus that fit a question."""

  def __init__(
    self, folder: str | os.PathLike, phrase_model: files.PhraseModel
  ):
    """Opens an index.

    Args:
      folder: that `build` wrote.
      phrase_model: that it was built with.

    Raises:
      ValueError: there is none, it is damaged or of another version, or it was
        built with another model.
    """
    faiss = import_extra('faiss')
    self.folder = pathlib.Path(folder)
    try:
      settings = json.loads(
        (self.folder / index_lib.SETTINGS_FILE).read_text('utf-8')
      )
    except (OSError, ValueError) as error:
      raise ValueError(
        f'{self.folder} holds no finished phrase index: {error}. Build it by '
        '`btr phrases build`.'
      ) from error
    if settings.get('format_version') != index_lib.FORMAT_VERSION:
      raise ValueError(
        f'{self.folder / index_lib.SETTINGS_FILE} has format_version '
        f'{settings.get("format_version")!r}; expected '
        f'{index_lib.FORMAT_VERSION}. Build it again by `btr phrases build`.'
      )
    if settings.get('model') != phrase_model.fingerprint:
      raise ValueError(
        f'{self.folder} was built with another phrase model '
        f'({settings.get("model")}); expected {phrase_model.fingerprint}. '
        'Build it again by `btr phrases build`.'
      )
    self.settings = settings
    try:
      self.passages = records.read_passages(
        self.folder / index_lib.PASSAGES_FILE
      )
      self._places = np.load(self.folder / index_lib.TOKENS_FILE)
      self._index = faiss.read_index(str(self.folder / index_lib.INDEX_FILE))
    except (OSError, ValueError, RuntimeError) as error:
      raise ValueError(
        f'{self.folder} is damaged: {error}. Build it again by `btr phrases '
        'build`.'
      ) from error
    counts = (self._index.ntotal, len(self._places))
    if counts != (settings['tokens'],) * 2:
      raise ValueError(
        f'{self.folder} is damaged: {counts[0]} vectors and {counts[1]} '
        f'places; expected {settings["tokens"]} of either. Build it again by '
        '`btr phrases build`.'
      )
    if settings['config']['lists']:
      inverted = faiss.extract_index_ivf(self._index)
      inverted.make_direct_map()  # so that vectors are found by their number
      inverted.nprobe = max(1, settings['config']['lists'] // 16)
    self._answer_tokens = phrase_model.config.answer_tokens

  @property
  def index_bytes(self) -> int:
    """Vectors and places of the tokens; the text is not counted."""
    return sum(
      (self.folder / name).stat().st_size
      for name in (index_lib.INDEX_FILE, index_lib.TOKENS_FILE)
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
    """What a phrase says, as it stands in its passage, in whole words."""
    text = self.passage(first).text
    start = int(self._places[first]['first'])
    end = int(self._places[last]['last'])
    # Tokens may be parts of words, answers are not.
    while spans.cuts(text, start):
      start -= 1
    while spans.cuts(text, end):
      end += 1
    return text[start:end]

  def passage(self, first: int) -> Passage:
    """Where a phrase stands."""
    return self.passages[self._places[first]['passage']]
