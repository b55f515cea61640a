"""The retriever of a corpus by its method: opened, or built when first used."""

from __future__ import annotations

from collections.abc import Callable
import pathlib

from btr_jax.retrieval import binary, dense, embeddings, encoder, fusion
from btr_jax.retrieval.interface import Retriever
from btr_jax.tools import common, corpora
from btr_jax.tools import progress as progress_lib

METHODS = ('bm25', 'dense', 'hybrid')


def dense_folder(
  corpus: corpora.Corpus, settings: embeddings.DenseSettings
) -> pathlib.Path:
  """Where the embeddings of a corpus by an encoder are kept."""
  return corpus.index_folder(['dense', settings.encoder, settings.dtype])


def open_dense(
  corpus: corpora.Corpus,
  *,
  encoder_folder: str | None = None,
  index: str = 'exact',
  dtype: str = 'float16',
  batch_size: int = encoder.BATCH_SIZE,
  candidates: int = binary.CANDIDATES,
) -> dense.DenseRetriever:
  """Opens the embeddings of a corpus; makes those that are missing first.

  Args:
    corpus: what to search.
    encoder_folder: None takes the default encoder.
    index: one of `dense.INDEXES`.
    dtype: that embeddings are stored in.
    batch_size: texts embedded at once.
    candidates: of the binary index, for each hit.

  Raises:
    FileNotFoundError: no encoder.
    ValueError: an encoder that does not fit, or a missing package.
  """
  encoder.import_extra('faiss')  # before hours of embedding, not after
  of_questions, of_passages = encoder.load_pair(encoder_folder)
  settings = embeddings.DenseSettings(
    corpus=corpus.fingerprint,
    encoder=of_passages.fingerprint,
    num_passages=len(corpus.passages),
    dim=of_passages.dim,
    dtype=dtype,
  )
  folder = dense_folder(corpus, settings)
  if not embeddings.is_complete(folder, settings):
    common.say(f'embedding the passages into {folder}')
    with progress_lib.Progress('passages embedded') as progress:
      embeddings.build(
        folder,
        corpus.passages,
        lambda texts: of_passages.embed(texts, batch_size),
        settings,
        progress=progress,
      )
  stored, codes = embeddings.open_embeddings(folder, settings)
  found = (
    binary.BinaryIndex(codes, stored, candidates)
    if index == 'binary'
    else dense.ExactIndex(stored)
  )
  return dense.DenseRetriever(
    lambda texts: of_questions.embed(texts, batch_size), found
  )


def open_retriever(
  corpus: corpora.Corpus,
  method: str,
  opener: Callable[[], dense.DenseRetriever],
) -> Retriever:
  """The retriever for one of `METHODS`.

  Args:
    corpus: what to search.
    method: bm25, dense, or both fused.
    opener: gives the dense one, if it is needed.
  """
  if method == 'bm25':
    return corpus.retriever
  if method == 'dense':
    return opener()
  return fusion.HybridRetriever([corpus.retriever, opener()])
