"""The shape of a language model, and of its low-rank adapters."""

from __future__ import annotations

import dataclasses

from btr_jax import config as config_lib

ROPE_SCALINGS = ('linear', 'llama3', 'factors')
# Every matrix of a layer, as the paper adapts them.
TARGETS = ('query', 'key', 'value', 'out', 'gate', 'up', 'down')


@dataclasses.dataclass(frozen=True)
class RopeScaling:
  """How rotary positions are stretched beyond the length of pre-training.

  Attributes:
    kind: `linear` (all frequencies divided by `factor`), `llama3` (only the
      slow ones), or `factors` (each divided by its own, as GGUF stores it).
    factor: see kind.
    low_frequency_factor: waves longer than `original_length` by this are
      slow; `llama3` only.
    high_frequency_factor: waves shorter than `original_length` by this stay
      as they are; `llama3` only.
    original_length: tokens of pre-training; `llama3` only.
    factors: half as many as a head is wide; `factors` only.
  """

  kind: str
  factor: float = 1.0
  low_frequency_factor: float = 1.0
  high_frequency_factor: float = 4.0
  original_length: int = 8192
  factors: tuple[float, ...] = ()

  def __post_init__(self):
    config_lib.check_choice('rope_scaling.kind', self.kind, ROPE_SCALINGS)
    if not self.factor > 0:
      raise ValueError(
        f'rope_scaling.factor is {self.factor}; expected above 0.'
      )
    if self.kind == 'llama3' and not (
      0 < self.low_frequency_factor < self.high_frequency_factor
    ):
      raise ValueError(
        f'rope_scaling has low_frequency_factor={self.low_frequency_factor} '
        f'and high_frequency_factor={self.high_frequency_factor}; expected '
        '0 < low < high, such as 1 and 4.'
      )


@dataclasses.dataclass(frozen=True)
class LanguageModelConfig:
  """A decoder of LLaMA's architecture (Touvron et al. 2023).

  Attributes:
    vocab_size: rows of the embedding.
    embed_dim: width of the residual stream.
    num_layers: layers.
    num_heads: heads of the queries.
    num_kv_heads: heads of the keys and values, each shared by
      num_heads / num_kv_heads queries.
    head_dim: width of one head.
    mlp_dim: width of the gated feed-forward layer.
    max_length: tokens that the model was made for.
    norm_epsilon: of the RMSNorms.
    rope_theta: base of the rotary frequencies.
    rope_scaling: None for none.
    logits_via_embedding: logits from the transposed embedding.
    dtype: of the activations, and of the parameters when they are loaded.
    remat: what a layer keeps for its gradient, as in `ReaderConfig`.
  """

  vocab_size: int
  embed_dim: int
  num_layers: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  mlp_dim: int
  max_length: int
  norm_epsilon: float = 1e-5
  rope_theta: float = 10000.0
  rope_scaling: RopeScaling | None = None
  logits_via_embedding: bool = False
  dtype: str = 'float32'
  remat: str = 'none'

  def __post_init__(self):
    config_lib.check_choice('dtype', self.dtype, config_lib.DTYPES)
    config_lib.check_choice('remat', self.remat, config_lib.REMATS)
    for name in (
      'vocab_size',
      'embed_dim',
      'num_layers',
      'num_heads',
      'num_kv_heads',
      'mlp_dim',
      'max_length',
    ):
      if getattr(self, name) < 1:
        raise ValueError(
          f'{name} is {getattr(self, name)}; expected at least 1.'
        )
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f'num_heads is {self.num_heads}, no multiple of num_kv_heads='
        f'{self.num_kv_heads}; every key serves the same number of queries.'
      )
    if self.head_dim < 2 or self.head_dim % 2:
      raise ValueError(
        f'head_dim is {self.head_dim}; rotary positions turn pairs of '
        'dimensions, so it must be even.'
      )
    scaling = self.rope_scaling
    if scaling is not None and scaling.kind == 'factors':
      if len(scaling.factors) != self.head_dim // 2:
        raise ValueError(
          f'rope_scaling has {len(scaling.factors)} factors; expected '
          f'head_dim / 2 = {self.head_dim // 2}.'
        )


# The reader of the paper's Table 1.
LLAMA2_7B = LanguageModelConfig(
  vocab_size=32000,
  embed_dim=4096,
  num_layers=32,
  num_heads=32,
  num_kv_heads=32,
  head_dim=128,
  mlp_dim=11008,
  max_length=4096,
  dtype='bfloat16',
)


@dataclasses.dataclass(frozen=True)
class LoraConfig:
  """Low-rank updates of matrices (Hu et al. 2021); defaults are the paper's.

  Attributes:
    rank: of each update.
    alpha: the update counts alpha / rank times.
    dropout_rate: of the update's input, in training only.
    targets: which matrices of each layer are updated.
  """

  rank: int = 8
  alpha: float = 32.0
  dropout_rate: float = 0.05
  targets: tuple[str, ...] = TARGETS

  def __post_init__(self):
    if self.rank < 1:
      raise ValueError(f'LoRA rank is {self.rank}; expected at least 1.')
    if not 0.0 <= self.dropout_rate < 1.0:
      raise ValueError(
        f'LoRA dropout_rate is {self.dropout_rate}; expected 0 to below 1.'
      )
    for target in self.targets:
      config_lib.check_choice('a LoRA target', target, TARGETS)
    if not self.targets:
      raise ValueError('LoRA has no targets; expected at least one.')

  @property
  def scale(self) -> float:
    """What the product of the two small matrices is multiplied by."""
    return self.alpha / self.rank


PAPER_LORA = LoraConfig()
