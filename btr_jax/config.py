"""The configuration of a reader: frozen dataclasses that JSON can carry.

Nothing here knows gin; entry points (`btr_jax/train.py`, the tools) fill these
classes in. A reader directory stores both as JSON, so that a cache, a
checkpoint and a program can be compared field by field.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

MODES = ('joint', 'decomposed', 'binary')
CODECS = ('calibrated', 'residual', 'float', 'sign')
INITIALIZERS = ('t5', 'mimetic')
REMATS = ('none', 'minimal', 'full')
TOKEN_SELECTIONS = ('attention', 'random', 'all', 'none')


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
  """Raises ValueError, naming the choices, unless value is one of them."""
  if value not in choices:
    raise ValueError(
      f'{name} is {value!r}; expected one of {", ".join(choices)}.'
    )


def _from_dict(cls: type, values: Mapping[str, Any]) -> Any:
  """Builds dataclass `cls`, refusing keys that it does not have."""
  names = {field.name for field in dataclasses.fields(cls)}
  unknown = sorted(set(values) - names)
  if unknown:
    raise ValueError(
      f'{cls.__name__} has no field {unknown}; it has {sorted(names)}. '
      'The file was written by another version of btr_jax.'
    )
  return cls(**values)


@dataclasses.dataclass(frozen=True)
class CodecConfig:
  """How the states of passage tokens become bits.

  Attributes:
    kind: `calibrated` (the paper's), `residual` (signs of the rotated residual
      to a prediction from the token id), `sign` (uncalibrated, for
      comparison), `float` (bfloat16, DeFormer's cache).
    num_bits: bits per token of the residual codec, a multiple of 8 and at most
      the embedding size; None takes one bit per dimension. Other codecs keep
      every dimension.
  """

  kind: str = 'residual'
  num_bits: int | None = None

  def __post_init__(self):
    check_choice('codec.kind', self.kind, CODECS)
    if self.num_bits is None:
      return
    if self.kind != 'residual':
      raise ValueError(
        f'codec.num_bits={self.num_bits} has no meaning for codec '
        f'{self.kind!r}; leave it None or use the residual codec.'
      )
    if self.num_bits <= 0 or self.num_bits % 8:
      raise ValueError(
        f'codec.num_bits is {self.num_bits}; expected a positive multiple of 8.'
      )


@dataclasses.dataclass(frozen=True)
class ReaderConfig:
  """A T5.1.1 encoder-decoder as Fusion-in-Decoder reader.

  Attributes:
    vocab_size: rows of the embedding; at least the vocabulary's size.
    embed_dim: width of the residual stream.
    num_heads: attention heads.
    head_dim: width of one head (T5's d_kv).
    mlp_dim: width of the gated feed-forward layer.
    num_encoder_layers: n of the paper.
    num_decoder_layers: layers of the decoder.
    split_layer: k of the paper: layers 0..k-1 see a question or a passage
      alone (but for mode `joint`), layers k..n-1 see both.
    mlp_activations: activations of the gated feed-forward layer.
    dropout_rate: T5's dropout, in training only.
    logits_via_embedding: logits from the transposed embedding (T5 1.0) in
      place of a matrix of their own (T5 1.1).
    relpos_buckets: buckets of the relative position bias.
    relpos_max_distance: distance from which all positions share a bucket.
    dtype: type of the activations; parameters stay float32.
    initializer: `t5`, or `mimetic` for small readers trained from nothing
      (`models/initialization.py`); matters at step 0 only.
    codec: how passage tokens are binarized.
    remat: what a layer keeps for its gradient: `none` keeps everything,
      `minimal` the outputs of its matrices (attention is computed again),
      `full` its inputs alone. Less memory for more computation, in training
      only; no part of what the reader is, so `to_dict` leaves it out.
  """

  vocab_size: int
  embed_dim: int
  num_heads: int
  head_dim: int
  mlp_dim: int
  num_encoder_layers: int
  num_decoder_layers: int
  split_layer: int
  mlp_activations: tuple[str, ...] = ('gelu', 'linear')
  dropout_rate: float = 0.1
  logits_via_embedding: bool = False
  relpos_buckets: int = 32
  relpos_max_distance: int = 128
  dtype: str = 'float32'
  initializer: str = 't5'
  codec: CodecConfig = CodecConfig()
  remat: str = 'none'

  def __post_init__(self):
    check_choice('initializer', self.initializer, INITIALIZERS)
    check_choice('REMAT', self.remat, REMATS)
    if not 0 < self.split_layer < self.num_encoder_layers:
      raise ValueError(
        f'split_layer is {self.split_layer}; expected 1 to '
        f'{self.num_encoder_layers - 1} (num_encoder_layers - 1): the paper '
        'uses 9 of 12 and 20 of 24.'
      )
    if self.embed_dim % 8:
      raise ValueError(
        f'embed_dim is {self.embed_dim}; expected a multiple of 8, because '
        'the bits of a token are packed into whole bytes.'
      )
    if (self.codec.num_bits or 0) > self.embed_dim:
      raise ValueError(
        f'codec.num_bits is {self.codec.num_bits}; expected at most '
        f'embed_dim={self.embed_dim}.'
      )

  def to_dict(self) -> dict[str, Any]:
    """What the reader is, as JSON values: fingerprints are taken of this."""
    values = dataclasses.asdict(self)
    # A run may go on with another `remat`, and a cache is read with any.
    del values['remat']
    return values

  @classmethod
  def from_dict(cls, values: Mapping[str, Any]) -> ReaderConfig:
    values = dict(values)
    codec = values.get('codec', CodecConfig())
    if not isinstance(codec, CodecConfig):
      values['codec'] = _from_dict(CodecConfig, codec)
    if 'mlp_activations' in values:  # JSON has lists only.
      values['mlp_activations'] = tuple(values['mlp_activations'])
    return _from_dict(cls, values)


@dataclasses.dataclass(frozen=True)
class InputLimits:
  """Lengths in tokens, and passages per question, that inputs are padded to."""

  question_length: int = 32
  passage_length: int = 128
  answer_length: int = 16
  num_passages: int = 8

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if value < 1:
        raise ValueError(f'{field.name} is {value}; expected at least 1.')

  def to_dict(self) -> dict[str, Any]:
    return dataclasses.asdict(self)

  @classmethod
  def from_dict(cls, values: Mapping[str, Any]) -> InputLimits:
    return _from_dict(cls, values)
