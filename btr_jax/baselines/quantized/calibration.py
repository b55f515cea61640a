"""What the matrices of a reader see: second moments of their inputs.

The reader itself runs, under teacher forcing; Flax tells of every call of a
module (`nn.intercept_methods`), and inputs of `Dense` are added up where a
token is real. Nothing of the reader is written a second time here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float
import numpy as np

from btr_jax.models import attention as attention_lib
from btr_jax.models import decoder as decoder_lib
from btr_jax.models import encoder as encoder_lib
from btr_jax.models import layers
from btr_jax.models import model as model_lib

Moments = dict[str, Float[np.ndarray, 'inputs inputs']]


class _Listener:
  """Adds up the inputs of matrices during one call of the reader."""

  def __init__(self, decoder_mask: jax.Array):
    self.sums: dict[str, jax.Array] = {}
    self.counts: dict[str, jax.Array] = {}
    self._decoder_mask = decoder_mask
    self._memory_mask: jax.Array | None = None
    # Masks of the calls that are being made, the innermost last.
    self._masks: list[jax.Array] = []

  def __call__(self, function, args, kwargs, context):
    module, method = context.module, context.method_name
    if isinstance(module, layers.Dense) and method == '__call__':
      self._add('/'.join(module.path), args[0])
    mask = self._mask(module, method, args)
    if mask is None:
      return function(*args, **kwargs)
    self._masks.append(mask)
    try:
      return function(*args, **kwargs)
    finally:
      self._masks.pop()

  def _mask(self, module, method, args):
    """Which tokens are real in a call, if it is one that says so."""
    if isinstance(module, encoder_lib.Encoder) and method in ('lower', 'upper'):
      return args[1]
    if isinstance(module, decoder_lib.Decoder) and method == '__call__':
      self._memory_mask = args[1]
      return self._decoder_mask
    if (
      isinstance(module, attention_lib.Attention)
      and method == 'keys_and_values'
      and module.name == 'encoder_decoder_attention'
    ):
      return self._memory_mask
    return None

  def _add(self, name, states):
    real = self._masks[-1].astype(jnp.float32)
    rows = states.astype(jnp.float32) * real[..., None]
    rows = rows.reshape(-1, rows.shape[-1])
    # The lower layers run twice in the decomposed modes.
    self.sums[name] = self.sums.get(name, 0.0) + rows.T @ rows
    self.counts[name] = self.counts.get(name, 0.0) + real.sum()


def moments_of_batch(
  model: model_lib.BtrModel, params: Mapping[str, Any], batch: Mapping[str, Any]
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
  """Sums of x x^T and numbers of tokens, by the name of the module.

  To be traced. The reader runs in its own mode, without dropout.

  Args:
    model: the reader.
    params: its parameters.
    batch: questions with passages and targets.
  """
  listener = _Listener(batch['decoder_loss_weights'] > 0)
  with nn.intercept_methods(listener):
    model.module.apply(
      model.variables(params),
      batch['question_tokens'],
      batch['passage_tokens'],
      batch['decoder_input_tokens'],
      model.mode,
    )
  return listener.sums, listener.counts


# Compiled once per reader and shape, also for another Calibrator.
_run = jax.jit(moments_of_batch, static_argnums=0)


class Calibrator:
  """Second moments over batches, for parameters that may change."""

  def __init__(
    self, model: model_lib.BtrModel, batches: Iterable[Mapping[str, Any]]
  ):
    """Keeps both.

    Args:
      model: the reader.
      batches: of equal shapes, with targets.

    Raises:
      ValueError: no batch, or one without targets.
    """
    self._batches = list(batches)
    if not self._batches:
      raise ValueError('Calibration needs at least one batch of questions.')
    if 'decoder_loss_weights' not in self._batches[0]:
      raise ValueError(
        'The calibration questions have no answers, and the decoder needs '
        'some to read; give questions with answers.'
      )
    self._model = model

  def moments(
    self,
    params: Mapping[str, Any],
    progress: Callable[[int, int], None] = lambda done, total: None,
  ) -> Moments:
    """Mean of x x^T of the inputs of each matrix, float64.

    Args:
      params: of the reader.
      progress: called with batches done and batches in all.

    Returns:
      By the name of the matrix's parameter, 'encoder/.../kernel'.
    """
    sums: dict[str, np.ndarray] = {}
    counts: dict[str, float] = {}
    for number, batch in enumerate(self._batches, start=1):
      found, real = jax.device_get(_run(self._model, params, batch))
      for name, value in found.items():
        sums[name] = sums.get(name, 0.0) + value.astype(np.float64)
        counts[name] = counts.get(name, 0.0) + float(real[name])
      progress(number, len(self._batches))
    return {
      f'{name}/kernel': value / max(counts[name], 1.0)
      for name, value in sums.items()
    }
