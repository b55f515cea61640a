"""The three stages: their losses, gradients and statistics."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from btr_jax.baselines.span_reader import (
  batches,
  network,
  training,
)
from btr_jax.baselines.span_reader import model as model_lib

SHAPE = batches.BatchShape(questions=4, passages=3, passage_length=24)


@pytest.fixture(scope='module')
def params(untrained):
  return jax.tree.map(jnp.asarray, untrained.params)


@pytest.fixture(scope='module')
def batch(tiny_records, untrained):
  data = batches.TrainingBatches(tiny_records, untrained.tokenizer, SHAPE)
  return jax.tree.map(jnp.asarray, next(data.from_step(0, 0)))


def loss_of(model, batch, teacher=None):
  """(parameters -> loss, parts), to be compiled."""

  def loss(params):
    mutables = {'teacher': teacher} if teacher else None
    value, metrics = model.loss_fn(params, batch, None, mutables)
    metrics = metrics[0] if mutables else metrics
    return value, {name: part.compute() for name, part in metrics.items()}

  return loss


def test_bits_pass_gradients_to_the_lower_layers(params, config, batch):
  model = model_lib.SpanModel(config, 3)
  inputs = (batch['question_tokens'], batch['passage_tokens'])

  def read(params):
    passage_of = batch['passage_of']
    _, passage, _ = model.states(params, *inputs, passage_of, 'binary')
    return (passage * jnp.arange(32.0)[None, None, None]).sum()

  grads = jax.jit(jax.grad(read))(params)
  lowest = grads['bert']['layers']['query']['weight']
  assert np.isfinite(lowest).all()
  assert np.abs(lowest[0]).max() > 0
  assert not np.any(lowest[1])  # above the split


@pytest.mark.parametrize(
  ('stage', 'part'), [(2, 'distill_loss'), (3, 'recovery_loss')]
)
def test_stages_add_their_loss(stage, part, params, config, batch):
  model = model_lib.SpanModel(config, stage)
  teacher = params if stage == 2 else None
  value, parts = jax.jit(loss_of(model, batch, teacher))(params)
  assert parts[part] > 0
  assert float(value) == pytest.approx(float(parts['task_loss'] + parts[part]))


def test_a_teacher_is_asked_for(params, config, batch):
  model = model_lib.SpanModel(config, 2)
  with pytest.raises(ValueError, match='distils from a teacher'):
    model.loss_fn(params, batch, None)
  with pytest.raises(ValueError, match='stage is 4'):
    model_lib.SpanModel(config, 4)


def test_statistics_halve_what_signs_lose(params, config, batch):
  """Centers and levels against bare signs, in squared error."""
  model = model_lib.SpanModel(config, 3)
  host = jax.tree.map(np.asarray, batch)
  fitted = training.fit_signs(params, model, [host])
  states = jax.jit(
    lambda params, tokens: network.encode_passages(params, tokens, config)
  )(params, batch['passage_tokens'])
  real = host['passage_tokens'] != 0

  def error(params):
    read = network.from_signs(params, network.to_signs(params, states))
    return np.square(np.asarray(read - states))[real].mean()

  assert error(fitted) < 0.5 * error(params)
