"""What a benchmark reads: readers of any size, questions, passages, caches."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from btr_jax import cache as cache_lib
from btr_jax import config as config_lib
from btr_jax.cache import builder
from btr_jax.models import model as model_lib

SIZES = {
  'tiny': dict(
    embed_dim=128,
    num_heads=4,
    head_dim=32,
    mlp_dim=192,
    num_encoder_layers=12,
    num_decoder_layers=2,
    split_layer=9,
    vocab_size=4196,
    logits_via_embedding=True,
  ),
  'small': dict(
    embed_dim=512,
    num_heads=6,
    head_dim=64,
    mlp_dim=1024,
    num_encoder_layers=8,
    num_decoder_layers=8,
    split_layer=6,
    vocab_size=32128,
  ),
  'base': dict(
    embed_dim=768,
    num_heads=12,
    head_dim=64,
    mlp_dim=2048,
    num_encoder_layers=12,
    num_decoder_layers=12,
    split_layer=9,
    vocab_size=32128,
  ),
  'large': dict(
    embed_dim=1024,
    num_heads=16,
    head_dim=64,
    mlp_dim=2816,
    num_encoder_layers=24,
    num_decoder_layers=24,
    split_layer=20,
    vocab_size=32128,
  ),
}
# Ids below are padding, end and unknown.
_FIRST_TOKEN = 3


@dataclasses.dataclass(frozen=True)
class Workload:
  """What every system of a group does.

  Attributes:
    passages: per question.
    batch: questions read together.
    question_length: tokens of a question.
    passage_length: tokens of a passage.
    padded_length: what passages are padded to.
    answer_length: tokens at most.
  """

  passages: int
  batch: int
  question_length: int
  passage_length: int
  padded_length: int
  answer_length: int

  @property
  def tokens_per_batch(self) -> int:
    """Of the memory, question copies and padding included."""
    length = self.question_length + self.padded_length
    return self.batch * self.passages * length


@dataclasses.dataclass(frozen=True)
class Reader:
  """Weights and architecture, random or trained."""

  config: config_lib.ReaderConfig
  params: Mapping[str, Any]


def random_reader(
  size: str, codec: config_lib.CodecConfig, dtype: str, seed: int = 0
) -> Reader:
  """A reader of one of `SIZES` with T5's scale of weights, drawn by NumPy.

  Raises:
    ValueError: unknown size.
  """
  config_lib.check_choice('size', size, tuple(SIZES))
  config = config_lib.ReaderConfig(**SIZES[size], codec=codec, dtype=dtype)
  model = model_lib.BtrModel(config, config_lib.InputLimits(), stage=3)
  shapes = jax.eval_shape(
    lambda: model.get_initial_variables(jax.random.key(0), model.input_shapes())
  )['params']
  generator = np.random.default_rng(seed)

  def draw(path, leaf):
    names = [entry.key for entry in path]
    if names[-1] in ('scale', 'deviation', 'level'):
      return jnp.ones(leaf.shape)
    values = generator.standard_normal(leaf.shape, np.float32)
    if names[-1] == 'embedding':
      # Where logits are tied to them, large ones repeat the last token.
      return jnp.asarray(values * (0.2 if config.logits_via_embedding else 1))
    if names[-1] == 'table':
      return jnp.zeros(leaf.shape)
    scale = leaf.shape[0] ** -0.5
    if names[-2] == 'query':
      scale *= config.head_dim**-0.5
    return jnp.asarray(values * np.float32(scale))

  return Reader(config, jax.tree_util.tree_map_with_path(draw, shapes))


class Corpus:
  """Random passages of one length, and caches of them on disk."""

  def __init__(
    self,
    reader: Reader,
    num_passages: int,
    passage_length: int,
    folder: pathlib.Path,
    seed: int = 1,
  ):
    """Draws the passages; a cache is built when it is first asked for."""
    self.generator = np.random.default_rng(seed)
    self.reader = reader
    self.tokens = self._draw(num_passages, passage_length)
    self._folder = folder

  def _draw(self, *shape: int) -> np.ndarray:
    vocab_size = self.reader.config.vocab_size
    return self.generator.integers(_FIRST_TOKEN, vocab_size, shape, np.int32)

  def ask(self, workload: Workload) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of random questions, and numbers of random passages for them."""
    questions = self._draw(workload.batch, workload.question_length)
    numbers = self.generator.integers(
      0, len(self.tokens), (workload.batch, workload.passages)
    )
    return questions, numbers

  def reader_of(self, mode: str) -> Reader:
    """The reader whose codec this mode reads."""
    if mode != 'float':
      return self.reader
    codec = config_lib.CodecConfig('float')
    config = dataclasses.replace(self.reader.config, codec=codec)
    params = {k: v for k, v in self.reader.params.items() if k != 'codec'}
    return Reader(config, params)

  @functools.cache  # noqa: B019 (a corpus lives as long as the run)
  def store(self, mode: str) -> cache_lib.CacheStore:
    """The cache of mode `float` or `binary`, built by the model."""
    reader = self.reader_of(mode)
    length = self.tokens.shape[1]
    limits = config_lib.InputLimits(passage_length=length)
    model = model_lib.BtrModel(reader.config, limits, stage=3, mode='binary')
    path = self._folder / mode
    builder.build(
      path,
      lambda start, stop: self.tokens[start:stop],
      len(self.tokens),
      functools.partial(jax.jit(model.encode_passages), reader.params),
      model.codec_layout,
      dict.fromkeys(('model', 'codec', 'tokenizer', 'corpus'), 'random'),
      vocab_size=reader.config.vocab_size,
      batch_size=8,
    )
    return cache_lib.CacheStore.open(path)


def padded(tokens: np.ndarray, numbers: np.ndarray, length: int) -> np.ndarray:
  """Passages by number, padded on the right with 0 to `length`."""
  found = tokens[numbers]
  return np.pad(found, ((0, 0), (0, 0), (0, length - found.shape[-1])))
