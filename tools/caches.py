"""The cache that fits a reader and a corpus: its place, its plan, its build."""

from __future__ import annotations

from collections.abc import Callable
import hashlib
import json
import pathlib
from typing import Any

import jax
import numpy as np

from btr_jax import cache as cache_lib
from btr_jax.cache import builder
from btr_jax.data import encoding
from btr_jax.models.reader_files import LoadedReader
from btr_jax.tools import common, corpora
from btr_jax.tools import progress as progress_lib

BATCH_SIZE = 32


def fingerprints(
  reader: LoadedReader, corpus: corpora.Corpus
) -> dict[str, str]:
  """What a cache must have been built from to fit."""
  layout = reader.model.codec_layout
  return {
    'model': reader.fingerprint,
    'codec': f'{layout.kind}, {layout.bits_bytes}+{layout.scale_bytes} bytes',
    'tokenizer': reader.vocabulary.fingerprint,
    'corpus': corpus.fingerprint,
  }


def default_path(reader: LoadedReader, corpus: corpora.Corpus) -> pathlib.Path:
  """A folder of its own for every pair of reader and corpus."""
  text = json.dumps(fingerprints(reader, corpus), sort_keys=True)
  key = hashlib.sha256(text.encode()).hexdigest()[:8]
  name = f'{corpus.name}-{reader.model.codec_layout.kind}-{key}'
  return common.data_folder() / 'caches' / name


def passage_tokens(
  reader: LoadedReader, corpus: corpora.Corpus
) -> Callable[[int, int], np.ndarray]:
  """A function from a range of passages to their tokens, padded with 0."""

  def tokens_of(start: int, stop: int) -> np.ndarray:
    texts = [(p.title, p.text) for p in corpus.passages[start:stop]]
    return encoding.encode_passages(
      reader.vocabulary, texts, reader.limits.passage_length
    )

  return tokens_of


def encode_function(
  reader: LoadedReader,
) -> Callable[[np.ndarray], dict[str, jax.Array]]:
  """The lower layers and the codec, compiled once per shape."""
  params = jax.device_put(reader.params)
  encode = jax.jit(reader.model.encode_passages)
  return lambda tokens: encode(params, tokens)


def plan(reader: LoadedReader, corpus: corpora.Corpus) -> cache_lib.CachePlan:
  """The plan of the cache; tokenizes the corpus, runs nothing."""
  return builder.make_plan(
    passage_tokens(reader, corpus),
    len(corpus.passages),
    reader.model.codec_layout,
    vocab_size=reader.vocabulary.vocab_size,
  )


def build(
  path: pathlib.Path,
  reader: LoadedReader,
  corpus: corpora.Corpus,
  *,
  batch_size: int = BATCH_SIZE,
) -> cache_lib.Manifest:
  """Builds the cache, or goes on with a build that was interrupted."""
  label = f'cache {reader.model.codec_layout.kind}'
  with progress_lib.Progress(label) as progress:
    return builder.build(
      path,
      passage_tokens(reader, corpus),
      len(corpus.passages),
      encode_function(reader),
      reader.model.codec_layout,
      fingerprints(reader, corpus),
      vocab_size=reader.vocabulary.vocab_size,
      batch_size=batch_size,
      progress=progress,
    )


def build_command(path: pathlib.Path, arguments: Any) -> str:
  """What to type to get the cache that is missing."""
  parts = ['btr export-cache build']
  for name in ('reader', 'corpus', 'codec'):
    value = getattr(arguments, name, None)
    if value is not None and value != corpora.FACTBOOK:
      parts.append(f'--{name} {value}')
  return ' '.join([*parts, f'--cache {path}'])


def open_cache(
  path: pathlib.Path,
  reader: LoadedReader,
  corpus: corpora.Corpus,
  *,
  build_missing: bool,
  command: str,
) -> cache_lib.CacheStore:
  """Opens the cache if it fits; builds it first if that was asked for.

  Args:
    path: its folder.
    reader: what it must have been built with.
    corpus: and from.
    build_missing: build it, or finish it, if it is not whole.
    command: shown where it is missing and may not be built.

  Raises:
    UserError: it is missing or not finished.
    CacheMismatchError: it belongs to another reader or corpus.
  """
  expected = fingerprints(reader, corpus)
  try:
    return cache_lib.CacheStore.open(path, expected)
  except (FileNotFoundError, cache_lib.CacheIncompleteError) as error:
    if not build_missing:
      raise common.UserError(
        f'there is no finished cache in {path}. Build it by\n  {command}\n'
        'or add --build.'
      ) from error
  common.say(f'building the cache {path}')
  build(path, reader, corpus)
  return cache_lib.CacheStore.open(path, expected)
