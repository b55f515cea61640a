"""Nearest passages by one bit per dimension, then by their embeddings."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float32, Int64, UInt8
import numpy as np

from btr_jax.retrieval.encoder import import_extra

# Candidates by bits for each hit that is wanted, then ranked by the float
# embeddings; 10 keeps nearly all of the exact search's hits.
CANDIDATES = 10
# A byte with its bits in the other order: ours begin at the highest, faiss's
# at the lowest.
_TURNED = np.packbits(
  np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)[:, ::-1],
  axis=1,
)[:, 0]

Found = tuple[
  Float32[np.ndarray, 'questions hits'], Int64[np.ndarray, 'questions hits']
]


class BinaryIndex:
  """Hamming distances of signs, then a second look at the nearest.

  Both are faiss's (IndexRefine of an IndexLSH without rotation), so a search is
  one call. In memory are the bits alone; the embeddings of the candidates are
  read from where they are mapped, without a copy of the array.
  """

  def __init__(
    self,
    codes: UInt8[np.ndarray, 'passages bytes'],
    embeddings: np.ndarray,
    candidates: int = CANDIDATES,
  ):
    """Fills the index.

    Args:
      codes: from `embeddings.sign_codes`.
      embeddings: float16 or float32 [passages, embed], maybe mapped.
      candidates: passages looked at again, for each hit that is wanted.

    Raises:
      ValueError: codes and embeddings do not fit, or are of another dtype.
    """
    self._faiss = faiss = import_extra('faiss')
    passages, dim = embeddings.shape
    if codes.shape != (passages, dim // 8):
      raise ValueError(
        f'codes are {codes.shape}; expected {(passages, dim // 8)} for '
        f'embeddings of {embeddings.shape}.'
      )
    self._candidates = candidates
    # faiss points into these, so they must live as long as it does.
    self._bits = _TURNED[codes]
    self._embeddings = np.ascontiguousarray(embeddings)
    self._near = faiss.IndexLSH(dim, dim, False, False)
    self._near.metric_type = faiss.METRIC_INNER_PRODUCT  # as the second look
    self._look = _flat(faiss, dim, embeddings.dtype)
    point(faiss, self._near, self._bits)
    point(faiss, self._look, self._embeddings)
    self._index = faiss.IndexRefine(self._near, self._look)

  def search(
    self, questions: Float32[np.ndarray, 'questions embed'], k: int
  ) -> Found:
    """Scores and numbers of the best passages among the candidates."""
    total = self._near.ntotal
    k = min(k, total)
    depth = min(k * self._candidates, total)
    # faiss looks at k * k_factor candidates, in float32 and rounded down.
    settings = self._faiss.IndexRefineSearchParameters(
      k_factor=(depth + 0.5) / k
    )
    return self._index.search(questions, k, params=settings)


def _flat(faiss: Any, dim: int, dtype: np.dtype) -> Any:
  """faiss's index that stores embeddings of the dtype as they are."""
  if dtype == np.float32:
    return faiss.IndexFlatIP(dim)
  if dtype == np.float16:
    return faiss.IndexScalarQuantizer(
      dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )
  raise ValueError(f'embeddings are {dtype}; expected float16 or float32.')


def point(faiss: Any, index: Any, array: np.ndarray) -> None:
  """Lets an index use the rows of an array where they lie."""
  raw = array.view(np.uint8)
  vector = faiss.MaybeOwnedVectorUInt8
  # The owner of an empty vector is nobody: the caller keeps the array.
  index.codes = vector.create_view(
    faiss.swig_ptr(raw), raw.size, vector().owner
  )
  index.ntotal = len(array)
