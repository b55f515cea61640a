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
CROSS_ATTENTIONS = ('reproject', 'cached', 'absorbed')
MERGE_READINGS = ('every', 'except')
DTYPES = ('float32', 'bfloat16')
SCALE_BITS = (8, 16)
BITS_PER_DIM = (1, 2, 4, 8)
WINDOWS = (0, 1, 2)
WIRINGS = ('recovered', 'bits', 'rms', 'unscaled')
BINARIZERS = ('straight_through', 'annealed')


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
    num_bits: bits per token of the residual codec, a multiple of 8; None keeps
      all dimensions. Fewer keep the directions that tell most. Other codecs
      keep every dimension.
    bits_per_dim: bits of each direction that the residual codec keeps: 1 its
      sign, 2, 4 or 8 a level.
    window: neighbours on each side whose token ids, with the token's own,
      predict what the residual codec need not store.
    scale_bits: of the token's scale, 16 (bfloat16, 0.2 % off at most) or 8
      (its logarithm, 2.2 %), in the calibrated and the residual codec.
    wiring: what the first upper layer gets of the calibrated codec's bits b,
      with the token's variance v and the norm's weight w. Its residual branch
      carries b sqrt(v) / w (`recovered`, `bits`), b sqrt(v) (`rms`) or b
      (`unscaled`); its attention reads the norm of that, or, with `bits`, b
      itself. The cache's bytes are those of any wiring.
  """

  kind: str = 'residual'
  num_bits: int | None = None
  scale_bits: int = 16
  bits_per_dim: int = 1
  window: int = 0
  wiring: str = 'recovered'

  def __post_init__(self):
    check_choice('codec.kind', self.kind, CODECS)
    check_choice('codec.wiring', self.wiring, WIRINGS)
    if self.wiring != 'recovered' and self.kind != 'calibrated':
      raise ValueError(
        f'codec.wiring={self.wiring!r} has no meaning for codec {self.kind!r}; '
        "leave it 'recovered' or use the calibrated codec."
      )
    for name, plain, allowed in (
      ('bits_per_dim', 1, BITS_PER_DIM),
      ('window', 0, WINDOWS),
    ):
      value = getattr(self, name)
      if value not in allowed:
        raise ValueError(f'codec.{name} is {value}; expected one of {allowed}.')
      if value != plain and self.kind != 'residual':
        raise ValueError(
          f'codec.{name}={value} has no meaning for codec {self.kind!r}; leave '
          f'it {plain} or use the residual codec.'
        )
    if self.scale_bits not in SCALE_BITS:
      raise ValueError(
        f'codec.scale_bits is {self.scale_bits}; expected one of {SCALE_BITS}.'
      )
    if self.scale_bits != 16 and self.kind not in ('calibrated', 'residual'):
      raise ValueError(
        f'codec.scale_bits={self.scale_bits} has no meaning for codec '
        f'{self.kind!r}, which stores no scale; leave it 16.'
      )
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
    most = self.embed_dim * self.codec.bits_per_dim
    if (self.codec.num_bits or 0) > most:
      raise ValueError(
        f'codec.num_bits is {self.codec.num_bits}; expected at most {most}: '
        f'embed_dim={self.embed_dim} times '
        f'codec.bits_per_dim={self.codec.bits_per_dim}.'
      )

  def to_dict(self) -> dict[str, Any]:
    """What the reader is, as JSON values: fingerprints are taken of this."""
    values = dataclasses.asdict(self)
    # A run may go on with another `remat`, and a cache is read with any.
    del values['remat']
    # Younger than the first caches: their readers are what they were.
    codec = values['codec']
    for name in ('scale_bits', 'bits_per_dim', 'window', 'wiring'):
      if codec[name] == getattr(CodecConfig, name):
        del codec[name]
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


@dataclasses.dataclass(frozen=True)
class AnnealingConfig:
  """Signs as tanh(beta x) in training, with a beta that grows (BPR, HashNet).

  In place of the straight-through estimator; whatever is evaluated or cached
  has hard signs. See `straight_through.annealed_beta`.

  Attributes:
    train_steps: updates in which beta grows from 1.
    last_beta: what it grows to.
  """

  train_steps: int
  last_beta: float = 32.0

  def __post_init__(self):
    if self.train_steps < 1:
      raise ValueError(
        f'annealing.train_steps is {self.train_steps}; expected at least 1.'
      )
    if not self.last_beta > 1:
      raise ValueError(
        f'ANNEAL_BETA is {self.last_beta}; expected more than 1, where it '
        'begins: BPR and HashNet end at some 30.'
      )

  def check_codec(self, codec: CodecConfig) -> None:
    """Raises ValueError for a codec that stores no signs."""
    if codec.kind == 'float' or codec.bits_per_dim != 1:
      raise ValueError(
        f"BINARIZER is 'annealed' with codec {codec.kind!r} of "
        f'{codec.bits_per_dim} bit(s) per dimension; tanh anneals to a sign: '
        'expected calibrated, sign or residual with CODEC_BITS_PER_DIM=1, or '
        "BINARIZER='straight_through'."
      )


@dataclasses.dataclass(frozen=True)
class MergingConfig:
  """Which tokens are merged while a question is read (paper, Algorithm 2).

  Attributes:
    intra_ratio: share of a passage's tokens merged away in each upper layer
      of the encoder, between attention and feed-forward; 0 merges none.
    cross_ratio: share of the decoder's memory merged away, across passages,
      at each of the decoder layers that `cross_period` names.
    cross_period: g of the paper.
    cross_reading: what "every g layers" means for layers counted from 1:
      `every` merges before layers g, 2g, ... (the paper's text), `except`
      before all others (line 5 of its Algorithm 2 as printed).
    proportional_attention: a merged token counts in the softmax as often as
      there are tokens in it (ToMe's switch).
  """

  intra_ratio: float = 0.0
  cross_ratio: float = 0.0
  cross_period: int = 3
  cross_reading: str = 'every'
  proportional_attention: bool = False

  def __post_init__(self):
    check_choice('merging.cross_reading', self.cross_reading, MERGE_READINGS)
    for name in ('intra_ratio', 'cross_ratio'):
      value = getattr(self, name)
      if not 0 <= value <= 0.5:
        raise ValueError(
          f'merging.{name} is {value}; expected 0 to 0.5: one pass merges '
          'each token of one half into one of the other half at most.'
        )
    if self.cross_period < 1:
      raise ValueError(
        f'merging.cross_period is {self.cross_period}; expected at least 1 '
        '(the paper uses 3).'
      )

  @property
  def suffix(self) -> str:
    """What names of rows say of it: ' intra 0.2 cross 0.2'; '' for none."""
    intra = f' intra {self.intra_ratio:g}' if self.intra_ratio else ''
    return intra + (f' cross {self.cross_ratio:g}' if self.cross_ratio else '')

  def merges_at(self, decoder_layer: int) -> bool:
    """Whether the memory is merged before this layer, counted from 0."""
    if not self.cross_ratio:
      return False
    due = (decoder_layer + 1) % self.cross_period == 0
    return due == (self.cross_reading == 'every')


NO_MERGING = MergingConfig()


@dataclasses.dataclass(frozen=True)
class InferenceConfig:
  """How a reader is run. Its answers do not depend on it, but for `merging`,
  the number of beams, and rounding: little of it, or with `int8_products` more.

  Attributes:
    cross_attention: how the decoder reads the memory: `reproject` computes
      keys and values at every step (T5X's way, for comparison), `cached` once
      per question, `absorbed` never, attending to the encoder's states
      themselves; None takes `absorbed` where it is the least work.
    merging: which tokens are merged.
    num_beams: answers kept at each step; 1 is greedy.
    length_penalty: beams are ranked by score / length ** length_penalty.
    tokens_at_once: how many tokens of passages the encoder reads together, one
      passage at least; None reads all, but where `serving/programs.py` knows
      better.
    int8_products: whether the encoder's layers multiply in eight bits
      (`models/integers.py`).
  """

  cross_attention: str | None = None
  merging: MergingConfig = NO_MERGING
  num_beams: int = 1
  length_penalty: float = 1.0
  tokens_at_once: int | None = None
  int8_products: bool = False

  def __post_init__(self):
    if self.cross_attention is not None:
      check_choice('cross_attention', self.cross_attention, CROSS_ATTENTIONS)
    if self.num_beams < 1:
      raise ValueError(f'num_beams is {self.num_beams}; expected at least 1.')
    if self.length_penalty < 0:
      raise ValueError(
        f'length_penalty is {self.length_penalty}; expected at least 0: with '
        'less, no answer could be told to be the best before the last step.'
      )
    if self.tokens_at_once is not None and self.tokens_at_once < 1:
      raise ValueError(
        f'tokens_at_once is {self.tokens_at_once}; expected at least 1, or '
        'None for all.'
      )

  def cross_attention_for(self, answer_length: int, head_dim: int) -> str:
    """The form to use for answers of this many tokens.

    Per head and memory token, `cached` projects once (embed * head_dim) and
    pays head_dim a query, `absorbed` pays embed a query and projects nothing:
    the less while there are fewer queries than a head has dimensions.
    """
    if self.cross_attention is not None:
      return self.cross_attention
    queries = answer_length * self.num_beams
    return 'absorbed' if queries < head_dim else 'cached'


DEFAULT_INFERENCE = InferenceConfig()


@dataclasses.dataclass(frozen=True)
class EngineConfig:
  """How the engine pads, compiles and queues.

  Attributes:
    length_buckets: passage lengths, ascending, that batches are padded to; the
      reader's limit always is one more. None takes multiples of 32; () pads
      every batch to the limit.
    max_batch: questions that are read at once when they come from a queue, and
      the largest batch that is compiled at the start.
    dtype: of the activations and matrices; None takes the reader's.
    fused: encoder and decoder in one program; two tell the time of each.
    compilation_cache: folder where compiled programs are kept for the next
      process; None keeps none.
    max_queue: questions that may wait; more are refused, or wait outside.
    wait_seconds: how long a queue waits for a batch to fill.
  """

  length_buckets: tuple[int, ...] | None = None
  max_batch: int = 16
  dtype: str | None = None
  fused: bool = True
  compilation_cache: str | None = None
  max_queue: int = 256
  wait_seconds: float = 0.002

  def __post_init__(self):
    for name in ('max_batch', 'max_queue'):
      value = getattr(self, name)
      if value < 1:
        raise ValueError(f'engine.{name} is {value}; expected at least 1.')
    if self.wait_seconds < 0:
      raise ValueError(
        f'engine.wait_seconds is {self.wait_seconds}; expected at least 0.'
      )
    if self.dtype is not None:
      check_choice('engine.dtype', self.dtype, DTYPES)
    buckets = self.length_buckets or ()
    if list(buckets) != sorted(set(buckets)) or any(b < 1 for b in buckets):
      raise ValueError(
        f'engine.length_buckets is {buckets}; expected ascending lengths.'
      )


DEFAULT_ENGINE = EngineConfig()
