"""A corpus's embeddings on disk, written as a stream and gone on with.

embeddings.npy   float16 or float32 [passages, embed]
codes.npy        uint8 [passages, embed / 8]: the signs, eight to a byte
dense.json       what they were made from; written last
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import json
import os
import pathlib
from typing import Any

from jaxtyping import Float, UInt8
import numpy as np

from btr_jax.cache.files import sync_folder
from btr_jax.cache.locks import FolderLock
from btr_jax.data import records
from btr_jax.data.records import Passage

FORMAT_VERSION = 1
DTYPES = ('float16', 'float32')
SETTINGS_FILE = 'dense.json'
EMBEDDINGS_FILE = 'embeddings.npy'
CODES_FILE = 'codes.npy'
_PARTIAL_FILE = 'partial.json'
# Texts tokenized and sorted by length at once; a killed build loses at most
# so many.
CHUNK = 2048

Embed = Callable[[Sequence[str]], np.ndarray]


@dataclasses.dataclass(frozen=True)
class DenseSettings:
  """What embeddings must have been made from to fit.

  Attributes:
    corpus: fingerprint of the passages.
    encoder: fingerprint of the passages' encoder.
    num_passages: rows.
    dim: of an embedding.
    dtype: that they are stored in.
  """

  corpus: str
  encoder: str
  num_passages: int
  dim: int
  dtype: str = 'float16'

  def __post_init__(self):
    if self.dtype not in DTYPES:
      raise ValueError(f'dtype is {self.dtype!r}; expected one of {DTYPES}.')
    if self.dim % 8:
      raise ValueError(
        f'Embeddings have {self.dim} dimensions; expected a multiple of 8.'
      )

  def to_dict(self) -> dict[str, Any]:
    return {'format_version': FORMAT_VERSION, **dataclasses.asdict(self)}


def passage_text(passage: Passage) -> str:
  """What is embedded: title and text, as Atlas and Contriever join them."""
  return f'{passage.title} {passage.text}'.strip()


def sign_codes(
  embeddings: Float[np.ndarray, 'rows embed'],
) -> UInt8[np.ndarray, 'rows bytes']:
  """One bit per dimension, set where it is positive."""
  return np.packbits(embeddings > 0, axis=1)


def is_complete(folder: str | os.PathLike, settings: DenseSettings) -> bool:
  """Whether the folder holds all embeddings, made from the same things."""
  return _read(pathlib.Path(folder) / SETTINGS_FILE) == settings.to_dict()


def _read(path: pathlib.Path) -> Any:
  try:
    return json.loads(path.read_text(encoding='utf-8'))
  except (OSError, ValueError):
    return None


def build(
  folder: str | os.PathLike,
  passages: Sequence[Passage],
  embed: Embed,
  settings: DenseSettings,
  *,
  chunk: int = CHUNK,
  progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
  """Embeds a corpus, or what an interrupted build of the same left over.

  Args:
    folder: where to; files of other settings are replaced.
    passages: the corpus.
    embed: texts -> float32 [texts, dim].
    settings: what the embeddings are made from.
    chunk: passages between two steps that survive a crash.
    progress: called with (passages done, all passages).

  Raises:
    CacheLockedError: another process builds in this folder.
    OSError: a file cannot be written.
    ValueError: an embedding is not finite.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  lock = FolderLock(folder)
  try:
    if is_complete(folder, settings):
      return
    _build(folder, passages, embed, settings, chunk, progress)
  finally:
    lock.release()


def _build(folder, passages, embed, settings, chunk, progress) -> None:
  total = settings.num_passages
  wanted = settings.to_dict()
  partial = _read(folder / _PARTIAL_FILE) or {}
  done = partial.get('done', 0) if partial.get('settings') == wanted else 0
  mode = 'r+' if done else 'w+'
  shape = (total, settings.dim)
  if not done:
    (folder / SETTINGS_FILE).unlink(missing_ok=True)
  arrays = [
    np.lib.format.open_memmap(
      folder / EMBEDDINGS_FILE, mode, settings.dtype, shape
    ),
    np.lib.format.open_memmap(
      folder / CODES_FILE, mode, np.uint8, (total, settings.dim // 8)
    ),
  ]
  embeddings, codes = arrays
  while done < total:
    progress(done, total)
    stop = min(done + chunk, total)
    found = embed([passage_text(p) for p in passages[done:stop]])
    if not np.isfinite(found).all():
      row = done + int(np.argmin(np.isfinite(found).all(axis=1)))
      raise ValueError(
        f'The embedding of passage {passages[row].id!r} is not finite; the '
        "encoder's weights are damaged, or are of another architecture."
      )
    embeddings[done:stop] = found
    codes[done:stop] = sign_codes(found)
    for array in arrays:
      array.flush()
    done = stop
    records.write_json(
      folder / _PARTIAL_FILE, {'done': done, 'settings': wanted}
    )
  progress(done, total)
  records.write_json(folder / SETTINGS_FILE, wanted)
  (folder / _PARTIAL_FILE).unlink()
  sync_folder(folder)


def open_embeddings(
  folder: str | os.PathLike, settings: DenseSettings
) -> tuple[np.ndarray, np.ndarray]:
  """Maps embeddings and codes.

  Returns:
    (float16 or float32 [passages, dim], uint8 [passages, dim / 8]).

  Raises:
    FileNotFoundError: the folder holds no finished embeddings.
    ValueError: they were made from something else; names the differences.
  """
  folder = pathlib.Path(folder)
  found = _read(folder / SETTINGS_FILE)
  if not isinstance(found, dict):
    raise FileNotFoundError(
      f'{folder} holds no finished embeddings ({SETTINGS_FILE} is missing). '
      'Build them: `btr retrieve --method dense`.'
    )
  wanted = settings.to_dict()
  differences = [
    f'{key}: found {found.get(key)!r}, expected {wanted[key]!r}'
    for key in wanted
    if found.get(key) != wanted[key]
  ]
  if differences:
    raise ValueError(
      f'{folder} was made from something else ({"; ".join(differences)}). '
      'Build the embeddings again.'
    )
  return (
    np.load(folder / EMBEDDINGS_FILE, mmap_mode='r'),
    np.load(folder / CODES_FILE, mmap_mode='r'),
  )
