"""Rotary positions (Su et al. 2021), with the scalings of Llama files."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int
import numpy as np

from btr_jax.baselines.language_model import config as config_lib


def inverse_frequencies(
  config: config_lib.LanguageModelConfig,
) -> Float[np.ndarray, 'half_kv']:
  """Radians by which each pair of dimensions turns per position, float64."""
  exponents = np.arange(0, config.head_dim, 2) / config.head_dim
  frequencies = config.rope_theta**-exponents
  scaling = config.rope_scaling
  if scaling is None:
    return frequencies
  if scaling.kind == 'linear':
    return frequencies / scaling.factor
  if scaling.kind == 'factors':
    return frequencies / np.asarray(scaling.factors)
  # Llama 3.1: fast waves stay, slow ones are stretched, those between are
  # mixed by how often they turn within the original length.
  turns = scaling.original_length * frequencies / (2 * np.pi)
  kept = (turns - scaling.low_frequency_factor) / (
    scaling.high_frequency_factor - scaling.low_frequency_factor
  )
  kept = np.clip(kept, 0.0, 1.0)
  return frequencies * (kept + (1 - kept) / scaling.factor)


def angles(
  positions: Int[Array, 'batch length'],
  config: config_lib.LanguageModelConfig,
) -> Float[Array, 'batch length half_kv']:
  """The angle of each pair of dimensions at each position, float32."""
  frequencies = jnp.asarray(inverse_frequencies(config), jnp.float32)
  return positions[..., None].astype(jnp.float32) * frequencies[None, None, :]


def rotate(
  heads: Float[Array, 'batch length heads kv'],
  angle: Float[Array, 'batch length half_kv'],
) -> Float[Array, 'batch length heads kv']:
  """Turns dimension i together with dimension i + kv / 2.

  The order of Hugging Face's files; `gguf_names` brings GGUF's into it.
  """
  cosine = jnp.cos(angle)[:, :, None, :]
  sine = jnp.sin(angle)[:, :, None, :]
  first, second = jnp.split(heads.astype(jnp.float32), 2, axis=-1)
  turned = [first * cosine - second * sine, second * cosine + first * sine]
  return jnp.concatenate(turned, axis=-1).astype(heads.dtype)
