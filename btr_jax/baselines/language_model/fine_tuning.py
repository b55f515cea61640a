"""LoRA fine-tuning: the parameters stay, small updates beside them move."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np
import optax

from btr_jax.baselines.language_model import config as config_lib
from btr_jax.baselines.language_model import layers
from btr_jax.baselines.language_model import lora as lora_lib
from btr_jax.baselines.language_model import model as model_lib

# tokens int32 [batch, length], padded on the left; mask bool [batch, length];
# target_mask bool [batch, answer]: which of the last tokens are to be learned.
Batch = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class FineTuned:
  """What training gives.

  Attributes:
    updates: the tree of LoRA's matrices.
    losses: mean loss of a target token at each step, before its update.
  """

  updates: Any
  losses: tuple[float, ...]


def answer_loss(
  model: model_lib.LanguageModel,
  params: Any,
  updates: Any,
  batch: Mapping[str, Any],
  dropout_key: jax.Array | None = None,
) -> Float[Array, '']:
  """Mean cross-entropy of the answers' tokens, given prompt and answer so far.

  Args:
    model: with its LoRA configuration.
    params: of the model.
    updates: LoRA's matrices.
    batch: see `Batch`.
    dropout_key: None for no dropout.
  """
  wanted = batch['target_mask'].astype(jnp.float32)
  count = wanted.shape[1]
  logits = model.apply(
    {'params': params, layers.LORA: updates},
    batch['tokens'],
    batch['mask'],
    dropout_key is None,
    # The token before the first target predicts it.
    count + 1,
    rngs=None if dropout_key is None else {'dropout': dropout_key},
  )[:, :-1]
  losses = optax.softmax_cross_entropy_with_integer_labels(
    logits, batch['tokens'][:, -count:]
  )
  return jnp.sum(losses * wanted) / jnp.maximum(jnp.sum(wanted), 1.0)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _step(model, optimizer, params, updates, state, batch, dropout_key):
  loss, gradient = jax.value_and_grad(answer_loss, argnums=2)(
    model, params, updates, batch, dropout_key
  )
  change, state = optimizer.update(gradient, state, updates)
  return loss, optax.apply_updates(updates, change), state


def fit(
  config: config_lib.LanguageModelConfig,
  params: Any,
  lora: config_lib.LoraConfig,
  batches: Iterator[Batch],
  *,
  optimizer: optax.GradientTransformation,
  num_steps: int,
  seed: int,
  updates: Any | None = None,
  progress: Callable[[int, int, float], None] = lambda done, total, loss: None,
) -> FineTuned:
  """Trains LoRA's matrices.

  Args:
    config: architecture; `remat` saves memory.
    params: of the model; not changed, no gradient is computed for them.
    lora: rank, targets, dropout.
    batches: any iterator; each shape is compiled once.
    optimizer: for the updates alone.
    num_steps: batches taken.
    seed: of the initial updates and of dropout.
    updates: to go on from; None begins with `lora.initial`.
    progress: called with steps done, steps in all, and the step's loss.

  Returns:
    The updates and the losses.

  Raises:
    FloatingPointError: a loss is not finite.
  """
  model = model_lib.LanguageModel(config, lora)
  dropout_key = jax.random.key(seed)
  if updates is None:
    updates = lora_lib.initial(config, lora, seed)

  state = optimizer.init(updates)
  losses = []
  for number in range(num_steps):
    batch = dict(next(batches))
    step_key = jax.random.fold_in(dropout_key, number)
    loss, updates, state = _step(
      model, optimizer, params, updates, state, batch, step_key
    )
    losses.append(float(loss))
    if not np.isfinite(losses[-1]):
      raise FloatingPointError(
        f'The loss is {losses[-1]} at step {number}; expected a finite number. '
        'Lower the learning rate.'
      )
    progress(number + 1, num_steps, losses[-1])
  return FineTuned(updates, tuple(losses))
