"""LLaMA's building blocks: RMSNorm, grouped-query attention, SwiGLU.

Names and logical axes follow the T5 reader's. A matrix adds a low-rank update
where the collection `lora` holds one for it (`lora.py` makes them).
"""

from __future__ import annotations

from flax import linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from btr_jax import axes
from btr_jax.baselines.language_model import config as config_lib
from btr_jax.baselines.language_model import rope
from btr_jax.models import layers as shared

LORA = 'lora'
# Keys and values of the tokens so far, turned to their positions.
KeysValues = tuple[
  Float[Array, 'batch columns kv_heads kv'],
  Float[Array, 'batch columns kv_heads kv'],
]


class RmsNorm(nn.Module):
  """T5's LayerNorm, with the epsilon of the model's configuration."""

  config: config_lib.LanguageModelConfig

  def setup(self):
    self.scale = shared.param_with_axes(
      'scale',
      nn.initializers.ones,
      (self.config.embed_dim,),
      jnp.float32,
      axes=(axes.EMBED,),
      module=self,
    )

  def __call__(
    self, states: Float[Array, '*batch embed']
  ) -> Float[Array, '*batch embed']:
    size = shared.root_mean_square(states, self.config.norm_epsilon)
    normed = states.astype(jnp.float32) / size
    scaled = normed * shared.over_last_axis(self.scale, normed)
    return scaled.astype(jnp.dtype(self.config.dtype))


class Matrix(shared.Dense):
  """A matrix, and its low-rank update where there is one."""

  lora: config_lib.LoraConfig | None = None

  def setup(self):
    super().setup()
    self.dropout = nn.Dropout(self.lora.dropout_rate if self.lora else 0.0)

  def __call__(
    self, states: Float[Array, '*batch inputs'], deterministic: bool = True
  ) -> Float[Array, '*batch outputs']:
    result = super().__call__(states)
    if self.lora is None or not self.has_variable(LORA, 'down'):
      return result
    dropped = self.dropout(
      states.astype(self.dtype), deterministic=deterministic
    )
    down = self.get_variable(LORA, 'down').astype(self.dtype)
    up = self.get_variable(LORA, 'up').astype(self.dtype)
    return result + jnp.dot(jnp.dot(dropped, down), up) * self.lora.scale


class Attention(nn.Module):
  """Self-attention; several heads of queries share keys and values."""

  config: config_lib.LanguageModelConfig
  lora: config_lib.LoraConfig | None = None

  def setup(self):
    cfg = self.config
    dtype = jnp.dtype(cfg.dtype)

    def inward(heads):
      return Matrix(
        cfg.embed_dim,
        heads * cfg.head_dim,
        (axes.EMBED, axes.JOINED_KV),
        dtype=dtype,
        lora=self.lora,
      )

    self.query = inward(cfg.num_heads)
    self.key = inward(cfg.num_kv_heads)
    self.value = inward(cfg.num_kv_heads)
    self.out = Matrix(
      cfg.num_heads * cfg.head_dim,
      cfg.embed_dim,
      (axes.JOINED_KV, axes.EMBED),
      dtype=dtype,
      lora=self.lora,
    )

  def _split_heads(self, states):
    batch, length, _ = states.shape
    heads = states.reshape(batch, length, -1, self.config.head_dim)
    return shared.constrain(heads, axes.BATCH, axes.LENGTH, axes.HEADS, axes.KV)

  def keys_and_values(
    self,
    states: Float[Array, 'batch length embed'],
    angle: Float[Array, 'batch length half_kv'],
    deterministic: bool = True,
  ) -> KeysValues:
    """What later positions attend to."""
    keys = self._split_heads(self.key(states, deterministic))
    values = self._split_heads(self.value(states, deterministic))
    return rope.rotate(keys, angle), values

  def attend(
    self,
    states: Float[Array, 'batch length embed'],
    angle: Float[Array, 'batch length half_kv'],
    keys_values: KeysValues,
    visible: Bool[Array, 'batch #length columns'],
    deterministic: bool = True,
  ) -> Float[Array, 'batch length embed']:
    """Attends to the columns that each position may see."""
    queries = self._split_heads(self.query(states, deterministic))
    mixed = jax.nn.dot_product_attention(
      rope.rotate(queries, angle), *keys_values, mask=visible[:, None]
    )
    joined = mixed.reshape(*states.shape[:2], -1)
    joined = shared.constrain(joined, axes.BATCH, axes.LENGTH, axes.JOINED_KV)
    return self.out(joined, deterministic)


class Mlp(nn.Module):
  """SwiGLU (Shazeer 2020)."""

  config: config_lib.LanguageModelConfig
  lora: config_lib.LoraConfig | None = None

  def setup(self):
    cfg = self.config
    dtype = jnp.dtype(cfg.dtype)

    def inward():
      return Matrix(
        cfg.embed_dim,
        cfg.mlp_dim,
        (axes.EMBED, axes.MLP),
        dtype=dtype,
        lora=self.lora,
      )

    self.gate = inward()
    self.up = inward()
    self.down = Matrix(
      cfg.mlp_dim,
      cfg.embed_dim,
      (axes.MLP, axes.EMBED),
      dtype=dtype,
      lora=self.lora,
    )

  def __call__(
    self,
    states: Float[Array, 'batch length embed'],
    deterministic: bool = True,
  ) -> Float[Array, 'batch length embed']:
    hidden = nn.silu(self.gate(states, deterministic))
    hidden = hidden * self.up(states, deterministic)
    hidden = shared.constrain(hidden, axes.BATCH, axes.LENGTH, axes.MLP)
    return self.down(hidden, deterministic)


class Layer(nn.Module):
  """Attention and feed-forward, each behind a norm and beside a bypass."""

  config: config_lib.LanguageModelConfig
  lora: config_lib.LoraConfig | None = None

  def setup(self):
    self.attention_norm = RmsNorm(self.config)
    self.attention = Attention(self.config, self.lora)
    self.mlp_norm = RmsNorm(self.config)
    self.mlp = Mlp(self.config, self.lora)

  def over_all(
    self,
    states: Float[Array, 'batch length embed'],
    angle: Float[Array, 'batch length half_kv'],
    visible: Bool[Array, 'batch length length'],
    deterministic: bool = True,
  ) -> tuple[Float[Array, 'batch length embed'], KeysValues]:
    """One layer over all positions at once, and its keys and values."""
    normed = self.attention_norm(states)
    own = self.attention.keys_and_values(normed, angle, deterministic)
    states = states + self.attention.attend(
      normed, angle, own, visible, deterministic
    )
    update = self.mlp(self.mlp_norm(states), deterministic)
    return shared.constrain_states(states + update), own

  def step(
    self,
    states: Float[Array, 'batch 1 embed'],
    angle: Float[Array, 'batch 1 half_kv'],
    visible: Bool[Array, 'batch 1 columns'],
    cache: KeysValues,
    column: Int[Array, ''],
  ) -> tuple[Float[Array, 'batch 1 embed'], KeysValues]:
    """One layer over one more token, written to `column` of the cache."""
    normed = self.attention_norm(states)
    own = self.attention.keys_and_values(normed, angle)
    cache = tuple(
      jax.lax.dynamic_update_slice_in_dim(old, new, column, axis=1)
      for old, new in zip(cache, own, strict=True)
    )
    states = states + self.attention.attend(normed, angle, cache, visible)
    states = states + self.mlp(self.mlp_norm(states))
    return shared.constrain_states(states), cache
