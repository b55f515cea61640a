"""Token vectors of a corpus in faiss.

index.faiss      vectors of the tokens that the filter let through, in the
                 order of the corpus, quantized (scalar, or OPQ and products)
tokens.npy       passage, token, first and last character of each
passages.jsonl   the corpus, for the answers' text
index.json       what it was made from; written last
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import os
import pathlib
import tempfile
from typing import Any

import numpy as np

from btr_jax import config as config_lib
from btr_jax.baselines.phrases import files
from btr_jax.baselines.phrases import vectors as vectors_lib
from btr_jax.data import records
from btr_jax.data.records import Passage
from btr_jax.retrieval.encoder import import_extra

FORMAT_VERSION = 1
SETTINGS_FILE = 'index.json'
INDEX_FILE = 'index.faiss'
TOKENS_FILE = 'tokens.npy'
PASSAGES_FILE = 'passages.jsonl'
STORAGES = ('sq8', 'sq4', 'opq', 'float')
# Vectors that a quantizer is trained on at most, and that are added at once.
_TRAINED_ON = 1 << 18
_SLICE = 1 << 16
# Product quantization has so many codes per part, and needs as many vectors.
_CODES = 256


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
    ValueError: no passage, the filter let nothing through, or too few tokens
      for what is to be learnt of them.
  """
  faiss = import_extra('faiss')
  if not len(passages):
    raise ValueError(
      'The corpus holds no passage; expected at least one. Check the file '
      'that --corpus names.'
    )
  dim = phrase_model.config.dim
  index = faiss.index_factory(
    dim, config.factory(dim), faiss.METRIC_INNER_PRODUCT
  )
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  (folder / SETTINGS_FILE).unlink(missing_ok=True)
  # On disk, since the vectors of a corpus may not fit into memory.
  with tempfile.TemporaryFile(dir=folder) as file:
    places = []
    for some, of_them in vectors_lib.encode_corpus(
      phrase_model, passages, config.filtered, progress
    ):
      some.tofile(file)
      places.append(of_them)
    every = np.concatenate(places)
    _check_enough(len(every), config)
    file.flush()
    vectors = np.memmap(file, np.float32, 'r', shape=(len(every), dim))
    index.train(_sample(vectors))
    for start in range(0, len(vectors), _SLICE):
      index.add(np.asarray(vectors[start : start + _SLICE]))
    del vectors
  with records.atomic_writer(folder / TOKENS_FILE, binary=True) as file:
    np.save(file, every)
  aside = folder / f'.{INDEX_FILE}'
  faiss.write_index(index, str(aside))
  with open(aside, 'rb') as file:
    os.fsync(file.fileno())
  os.replace(aside, folder / INDEX_FILE)
  records.write_passages(folder / PASSAGES_FILE, passages)
  settings = {
    'format_version': FORMAT_VERSION,
    'model': phrase_model.fingerprint,
    'config': dataclasses.asdict(config),
    'passages': len(passages),
    'tokens': len(every),
    'dim': dim,
  }
  records.write_json(folder / SETTINGS_FILE, settings)
  return settings


def _check_enough(tokens: int, config: IndexConfig) -> None:
  if not tokens:
    raise ValueError(
      'No token is left to be indexed; expected some. Either no passage has '
      'a text, or the filter let none through: train longer, or build with '
      '--no-filter.'
    )
  needed = max(config.lists, _CODES if config.storage == 'opq' else 0)
  if tokens < needed:
    raise ValueError(
      f'{tokens} tokens are left to be indexed; expected at least {needed} '
      f'for storage {config.storage!r} and {config.lists} lists. Take storage '
      "'sq8', fewer lists, or a larger corpus."
    )


def _sample(vectors: np.ndarray) -> np.ndarray:
  """All of them, or as many as are enough to learn ranges and codes from."""
  if len(vectors) <= _TRAINED_ON:
    return np.asarray(vectors)
  generator = np.random.default_rng(0)
  rows = generator.choice(len(vectors), _TRAINED_ON, replace=False)
  return vectors[np.sort(rows)]
