"""A small random corpus, a codec in numpy, and caches built of them."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import types

import numpy as np
import pytest

from btr_jax.cache import builder
from btr_jax.cache.manifest import Manifest

FINGERPRINTS = {'model': 'model-a', 'codec': 'codec-a', 'tokenizer': 'words'}


@dataclasses.dataclass(frozen=True)
class Corpus:
  """Random passages and what a codec would make of them."""

  tokens: np.ndarray
  bits_bytes: int = 6
  scale_bytes: int = 2
  vocab_size: int = 4196

  @property
  def codec_layout(self) -> types.SimpleNamespace:
    return types.SimpleNamespace(
      kind='residual', bits_bytes=self.bits_bytes, scale_bytes=self.scale_bytes
    )

  @property
  def lengths(self) -> np.ndarray:
    return (self.tokens != 0).sum(axis=1)

  def tokens_of(self, start: int, stop: int) -> np.ndarray:
    return self.tokens[start:stop]

  def encode(self, tokens: np.ndarray) -> dict[str, np.ndarray]:
    """Bytes that depend on token and position; padding gets some as well."""
    position = np.arange(tokens.shape[1])[:, None]
    mixed = tokens[..., None] * 7 + position * 31
    bits = mixed + np.arange(self.bits_bytes) * 101 + 13
    scale = mixed * 3 + np.arange(self.scale_bytes) + 5
    return {'bits': bits.astype(np.uint8), 'scale': scale.astype(np.uint8)}

  def expected(self) -> dict[str, np.ndarray]:
    """All passages as a look-up must return them."""
    real = (self.tokens != 0)[..., None]
    return {k: v * real for k, v in self.encode(self.tokens).items()}

  def build(self, path, do=builder.build, **options) -> Manifest:
    """`do` is builder.build, append or repair."""
    arguments = {
      'encode_fn': self.encode,
      'fingerprints': FINGERPRINTS,
      'vocab_size': self.vocab_size,
      'batch_size': 4,
    } | options
    if do is not builder.append:
      arguments.setdefault('passages_per_shard', 8)
    return do(
      path,
      self.tokens_of,
      len(self.tokens),
      codec_layout=self.codec_layout,
      **arguments,
    )


def make_corpus(
  num_passages: int = 27, length: int = 40, seed: int = 0, **options
) -> Corpus:
  """Passages of 0 to `length` tokens; the second is empty, the third full."""
  random = np.random.default_rng(seed)
  lengths = random.integers(0, length + 1, num_passages)
  lengths[1:3] = 0, length
  tokens = random.integers(1, 4196, (num_passages, length)).astype(np.int32)
  tokens[np.arange(length) >= lengths[:, None]] = 0
  return Corpus(tokens, **options)


def tree_of(path: pathlib.Path) -> dict[str, str]:
  """Every file below `path` with the hash of its bytes."""
  return {
    file.relative_to(path).as_posix(): hashlib.sha256(
      file.read_bytes()
    ).hexdigest()
    for file in sorted(path.rglob('*'))
    if file.is_file()
  }


@pytest.fixture(scope='session')
def corpus() -> Corpus:
  """27 passages, hence four shards of eight, the last one not full."""
  return make_corpus()


@pytest.fixture(scope='session')
def corpus_maker():
  return make_corpus


@pytest.fixture(scope='session')
def tree():
  return tree_of


@pytest.fixture(scope='session')
def never():
  """An encode function for a build that has nothing to encode."""

  def encode(tokens):
    raise AssertionError('nothing was to be encoded')

  return encode


@pytest.fixture
def cache(tmp_path, corpus) -> pathlib.Path:
  """A cache of the corpus that the test may damage."""
  corpus.build(tmp_path / 'cache')
  return tmp_path / 'cache'


@pytest.fixture(scope='session')
def sound_cache(tmp_path_factory, corpus) -> pathlib.Path:
  """A cache of the corpus for tests that only read."""
  path = tmp_path_factory.mktemp('caches') / 'sound'
  corpus.build(path)
  return path
