"""The cache that fits a reader and a corpus: its place, its plan, its build."""

from __future__ import annotations

from collections.abc import Callable
import hashlib
import itertools
import json
import pathlib
import time
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
  """The lower layers and the codec, compiled once per shape and device.

  The devices of this process take turns, a batch each. A batch is computed
  whole by one of them, so that its bits do not depend on their number.
  """
  encode = jax.jit(reader.model.encode_passages)
  turns = itertools.cycle(
    jax.device_put(reader.params, device) for device in jax.local_devices()
  )
  return lambda tokens: encode(next(turns), tokens)


def passages_per_second(
  reader: LoadedReader, corpus: corpora.Corpus, batch_size: int
) -> float:
  """Speed of the first passages, padded to full length, on all devices."""
  tokens = passage_tokens(reader, corpus)(
    0, min(batch_size, len(corpus.passages))
  )
  encode = encode_function(reader)
  devices = range(len(jax.local_devices()))
  for timed in (False, True):  # the first round compiles
    start = time.perf_counter()
    jax.block_until_ready([encode(tokens) for _ in devices])
    if timed:
      seconds = time.perf_counter() - start
  return len(tokens) * len(devices) / seconds


def plan(
  reader: LoadedReader,
  corpus: corpora.Corpus,
  passages_per_shard: int | None = None,
) -> cache_lib.CachePlan:
  """The plan of the cache; tokenizes the corpus, runs nothing."""
  with progress_lib.Progress('tokenize') as progress:
    return builder.make_plan(
      passage_tokens(reader, corpus),
      len(corpus.passages),
      reader.model.codec_layout,
      vocab_size=reader.vocabulary.vocab_size,
      passages_per_shard=passages_per_shard,
      progress=progress,
    )


def build(
  path: pathlib.Path | str,
  reader: LoadedReader,
  corpus: corpora.Corpus,
  *,
  batch_size: int = BATCH_SIZE,
  step: Callable[..., cache_lib.Manifest] = builder.build,
  label: str = 'cache',
  **options: Any,
) -> cache_lib.Manifest:
  """Builds the cache, or goes on with a build that was interrupted.

  Args:
    path: folder or URL of the cache.
    reader: whose lower layers encode.
    corpus: whose passages.
    batch_size: passages per batch; the bits may depend on it.
    step: builder.build, append or repair.
    label: shown with the progress.
    **options: of the step.

  Returns:
    The manifest.
  """
  layout = reader.model.codec_layout
  with progress_lib.Progress(f'{label} {layout.kind}') as progress:
    return step(
      path,
      passage_tokens(reader, corpus),
      len(corpus.passages),
      encode_function(reader),
      layout,
      fingerprints(reader, corpus),
      vocab_size=reader.vocabulary.vocab_size,
      batch_size=batch_size,
      batches_in_flight=2 * len(jax.local_devices()),
      progress=progress,
      **options,
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
