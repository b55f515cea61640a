"""The three stages: gradients, statistics, and going on after a stop."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from btr_jax.baselines.span_reader import batches, files, training
from btr_jax.baselines.span_reader import model as model_lib
from btr_jax.training import loop as loop_lib

SHAPE = batches.BatchShape(questions=4, passages=3, passage_length=24)


class StopAfter(loop_lib.StopSignal):
  """Stops a loop after a step, as SIGTERM would."""

  def __init__(self, step):
    super().__init__()
    self._step = step

  def reached(self, step):
    if step >= self._step:
      self.set()
    return self.is_set()


@pytest.fixture(scope='module')
def batch(tiny_records, untrained):
  data = batches.TrainingBatches(tiny_records, untrained.tokenizer, SHAPE)
  return next(data.from_step(0, 0))


@pytest.mark.parametrize('stage', [2, 3])
def test_losses_reach_the_lower_layers(stage, untrained, batch):
  model = model_lib.SpanModel(untrained.config, stage)
  mutables = {'teacher': untrained.params} if stage == 2 else {}

  def loss(params):
    value, metrics = model.loss_fn(params, batch, None, mutables)
    return value, metrics[0] if mutables else metrics

  (value, metrics), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(
    untrained.params
  )
  parts = {name: float(m.compute()) for name, m in metrics.items()}
  other = 'distill_loss' if stage == 2 else 'recovery_loss'
  assert parts[other] > 0
  assert float(value) == pytest.approx(parts['task_loss'] + parts[other])
  lowest = grads['bert']['layers']['query']['weight'][0]
  assert np.abs(lowest).max() > 0
  assert np.isfinite(lowest).all()
  recovery = grads['codec']['recovery']['weight']
  assert np.any(recovery) == (stage == 3)


def test_a_teacher_is_asked_for(untrained, batch):
  model = model_lib.SpanModel(untrained.config, 2)
  with pytest.raises(ValueError, match='distils from a teacher'):
    model.loss_fn(untrained.params, batch, None)
  with pytest.raises(ValueError, match='stage is 4'):
    model_lib.SpanModel(untrained.config, 4)


def test_statistics_halve_what_signs_lose(untrained, batch):
  """Centers and levels against bare signs, in squared error."""
  from btr_jax.baselines.span_reader import network

  model = model_lib.SpanModel(untrained.config, 3)
  fitted = training.fit_signs(untrained.params, model, [batch])
  states = jax.jit(
    lambda params, tokens: network.encode_passages(
      params, tokens, untrained.config
    )
  )(untrained.params, batch['passage_tokens'])
  real = np.asarray(batch['passage_tokens'] != 0)

  def error(params):
    read = network.from_signs(params, network.to_signs(params, states))
    return np.square(np.asarray(read - states))[real].mean()

  assert error(fitted) < 0.5 * error(untrained.params)


def test_a_stopped_run_goes_on_to_the_same_reader(
  tiny_records, untrained, tmp_path
):
  recipe = training.SpanRecipe(1, 4, 1e-3, SHAPE)

  def run(folder, stop=None):
    return training.run_stage(
      recipe, tmp_path / folder, tiny_records, untrained, stop=stop
    )

  whole = run('whole')
  assert run('parts', StopAfter(2)) is None
  parts = run('parts')
  left, right = files.load(whole), files.load(parts)
  assert left.mode == 'joint'
  jax.tree.map(np.testing.assert_array_equal, left.params, right.params)
  before = untrained.params['span']['weight']
  assert np.abs(left.params['span']['weight'] - before).max() > 1e-4
  other = training.SpanRecipe(1, 5, 1e-3, SHAPE)
  with pytest.raises(ValueError, match=r'recipe.steps: found 4, now 5'):
    training.run_stage(other, tmp_path / 'parts', tiny_records, untrained)
