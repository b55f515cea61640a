"""One update, one evaluation batch, one batch of answers: pure and jitted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
import optax

from btr_jax.training import partitioning
from btr_jax.training import state as state_lib

Metrics = dict[str, Any]


class TrainStep:
  """The jitted update: `step(state, batch) -> (state, metrics)`.

  Metrics are clu Metrics, plus the arrays `grad_norm` and `learning_rate`.
  """

  def __init__(self, jitted: Any, mesh: Mesh):
    self._jitted = jitted
    self._mesh = mesh

  def __call__(
    self, state: state_lib.TrainState, batch: Mapping[str, jax.Array]
  ) -> tuple[state_lib.TrainState, Metrics]:
    """Does one update; donates the state, but for its mutables."""
    mutables = state.mutables
    with partitioning.mesh_context(self._mesh):
      state, metrics = self._jitted(state.replace(mutables={}), mutables, batch)
    return state.replace(mutables=mutables), metrics

  def trace(
    self, state: state_lib.TrainState, batch: Mapping[str, Any]
  ) -> jax.stages.Traced:
    """The program for ShapeDtypeStructs: nothing is allocated.

    Args:
      state: abstract, with shardings.
      batch: abstract, with shardings.

    Returns:
      What has the jaxpr; `lower` it within `partitioning.mesh_context`.
    """
    with partitioning.mesh_context(self._mesh):
      return self._jitted.trace(
        state.replace(mutables={}), state.mutables, batch
      )


def _global_norm(tree):
  return jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)))


def _loss_and_grads(model, params, mutables, batch, rng, step):
  # T5X's contract knows no step; only annealed signs ask for it.
  anneals = getattr(model, 'annealing', None) is not None
  given = {'step': step} if anneals else {}

  def loss_fn(params):
    if mutables:
      loss, (metrics, _) = model.loss_fn(params, batch, rng, mutables, **given)
      return loss, metrics
    return model.loss_fn(params, batch, rng, **given)

  (_, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
  return grads, metrics


def accumulate(
  model: Any,
  params: Any,
  mutables: Mapping[str, Any],
  batch: Mapping[str, jax.Array],
  rng: jax.Array,
  microbatches: int,
  step: jax.Array | None = None,
) -> tuple[Any, Metrics]:
  """Gradients of the whole batch, one part in memory at a time.

  The loss is a mean per target token, so each part counts by its share of the
  target tokens.

  Args:
    model: a model with T5X's `loss_fn`.
    params: parameters.
    mutables: what the loss takes beside them; empty for nothing.
    batch: the whole batch; its rows divide by `microbatches`.
    rng: key of the step.
    microbatches: number of parts.
    step: updates done, for a model whose signs are annealed.

  Returns:
    (gradients, metrics).
  """

  def split(array):
    # [microbatches * n, ...] -> [microbatches, n, ...]; every device keeps
    # examples of its own in each part.
    parts = array.reshape((-1, microbatches) + array.shape[1:]).swapaxes(0, 1)
    return jax.lax.with_sharding_constraint(parts, PartitionSpec(None, 'data'))

  parts = {name: split(array) for name, array in batch.items()}
  total = jnp.maximum(jnp.sum(batch['decoder_loss_weights']), 1.0)

  def one(carry, inputs):
    index, part = inputs
    grads, metrics = _loss_and_grads(
      model, params, mutables, part, jax.random.fold_in(rng, index), step
    )
    share = jnp.sum(part['decoder_loss_weights']) / total
    carry = jax.tree.map(lambda old, new: old + share * new, carry, grads)
    return carry, metrics

  zeros = jax.tree.map(jnp.zeros_like, params)
  grads, metrics = jax.lax.scan(one, zeros, (jnp.arange(microbatches), parts))
  return grads, {name: metric.reduce() for name, metric in metrics.items()}


def make_train_step(
  model: Any,
  optimizer: optax.GradientTransformation,
  schedule: Callable[[Any], Any],
  abstract: state_lib.TrainState,
  mesh: Mesh,
  *,
  seed: int,
  microbatches: int = 1,
) -> TrainStep:
  """The jitted update; its state argument is donated.

  Args:
    model: a model with T5X's `loss_fn`.
    optimizer: the optimizer.
    schedule: its learning rate by step, for the log.
    abstract: of `state.abstract_state`.
    mesh: the mesh.
    seed: of dropout; the key of a step depends on seed and step alone, which
      is what makes a resumed run equal an uninterrupted one.
    microbatches: parts of the batch whose gradients are accumulated.

  Returns:
    The update.
  """

  def update(state, mutables, batch):
    rng = jax.random.fold_in(jax.random.key(seed), state.step)
    if microbatches == 1:
      grads, metrics = _loss_and_grads(
        model, state.params, mutables, batch, rng, state.step
      )
    else:
      grads, metrics = accumulate(
        model, state.params, mutables, batch, rng, microbatches, state.step
      )
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    metrics = {
      **metrics,
      'grad_norm': _global_norm(grads),
      'learning_rate': jnp.asarray(schedule(state.step), jnp.float32),
    }
    state = state.replace(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      opt_state=opt_state,
    )
    return state, metrics

  trained = abstract.replace(mutables={})
  jitted = jax.jit(
    update,
    out_shardings=(
      state_lib.shardings_of(trained),
      partitioning.replicated(mesh),
    ),
    # Not the mutables: they go in unchanged at every step.
    donate_argnums=0,
  )

  return TrainStep(jitted, mesh)


def make_eval_step(
  model: Any, mesh: Mesh
) -> Callable[[Any, Mapping[str, jax.Array]], Metrics]:
  """The jitted evaluation of a batch: `step(params, batch) -> metrics`."""
  jitted = jax.jit(
    lambda params, batch: model.eval_fn(params, batch)[1],
    out_shardings=partitioning.replicated(mesh),
  )

  def step(params, batch):
    with partitioning.mesh_context(mesh):
      return jitted(params, batch)

  return step


def make_predict_step(
  model: Any,
  mesh: Mesh,
  predict: Callable[[Any, Mapping[str, jax.Array]], jax.Array] | None = None,
) -> Callable[[Any, Mapping[str, jax.Array]], jax.Array]:
  """Jitted answers: `step(params, batch) -> int32 [batch, answer_length]`.

  Args:
    model: what answers, by its `predict_batch`.
    mesh: the devices.
    predict: (parameters, batch) to answers in its place, for tasks whose
      answer is not what the decoder writes.
  """
  predict = predict or model.predict_batch
  jitted = jax.jit(
    lambda params, batch: predict(params, batch),
    out_shardings=partitioning.replicated(mesh),
  )

  def step(params, batch):
    with partitioning.mesh_context(mesh):
      return jitted(params, batch)

  return step
