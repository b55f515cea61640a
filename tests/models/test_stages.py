"""Which losses each stage has, and the T5X-shaped contract of the model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from btr_jax import losses
from btr_jax.models import model as model_lib


def _variables(model):
  return model.get_initial_variables(jax.random.key(0), model.input_shapes())


@pytest.fixture
def batch(random_batch):
  return random_batch()


def _values(metrics):
  return {name: float(metric.compute()) for name, metric in metrics.items()}


def test_stage_1_is_the_task_alone(small_model, batch):
  model = small_model(1)
  params = _variables(model)['params']
  assert set(_variables(model)) == {'params', 'params_axes'}
  loss, metrics = model.loss_fn(params, batch, None)
  values = _values(metrics)
  assert set(values) == {'loss', 'task_loss', 'token_accuracy'}
  np.testing.assert_allclose(loss, values['task_loss'], rtol=1e-6)
  scores = model.score_batch(params, batch)
  tokens = float(batch['decoder_loss_weights'].sum())
  np.testing.assert_allclose(loss, -float(scores.sum()) / tokens, rtol=1e-5)


def test_stage_2_distils_the_joint_teacher(small_model, batch):
  model = small_model(2)
  variables = _variables(model)
  params, teacher = variables['params'], variables['teacher']
  loss, (metrics, mutables) = model.loss_fn(
    params, batch, None, {'teacher': teacher}
  )
  values = _values(metrics)
  np.testing.assert_allclose(
    loss, values['task_loss'] + values['distill_loss'], rtol=1e-6
  )
  assert values['distill_loss'] > 0
  assert mutables['teacher'] is teacher

  # The same by hand from the two encodings.
  def encode(mode):
    return model.module.apply(
      {'params': params},
      batch['question_tokens'],
      batch['passage_tokens'],
      mode,
      trace=True,
      method='encode',
    ).trace

  joint, decomposed = encode('joint'), encode('decomposed')
  flat = batch['passage_tokens'].reshape(2, -1)
  chosen = losses.select_tokens(
    joint.question_attention.reshape(2, -1), flat != 0, 0.5
  )
  expected = losses.distillation(
    tuple(s.reshape(2, flat.shape[1], -1) for s in joint.passage_states),
    tuple(s.reshape(2, flat.shape[1], -1) for s in decomposed.passage_states),
    chosen,
  )
  np.testing.assert_allclose(values['distill_loss'], expected, rtol=1e-5)


def test_stage_2_trains_no_teacher(small_model, batch):
  model = small_model(2)
  variables = _variables(model)

  def loss(teacher):
    return model.loss_fn(
      variables['params'], batch, None, {'teacher': teacher}
    )[0]

  for leaf in jax.tree.leaves(jax.grad(loss)(variables['teacher'])):
    np.testing.assert_array_equal(leaf, 0.0)


def test_stage_2_without_a_teacher_is_refused(small_model, batch):
  model = small_model(2)
  with pytest.raises(ValueError, match='Stage 2 distils from a teacher'):
    model.loss_fn(_variables(model)['params'], batch, None)


def test_stage_2_can_learn_without_a_teacher(small_model, batch):
  model = small_model(2, distill_tokens='none')
  params = _variables(model)['params']
  loss, metrics = model.loss_fn(params, batch, None)
  values = _values(metrics)
  assert set(values) == {'loss', 'task_loss', 'token_accuracy'}
  np.testing.assert_allclose(loss, values['task_loss'], rtol=1e-6)


@pytest.mark.parametrize('codec', ['calibrated', 'residual'])
def test_stage_3_recovers_passages(small_model, batch, codec):
  model = small_model(3, codec)
  params = _variables(model)['params']
  loss, metrics = model.loss_fn(params, batch, None)
  values = _values(metrics)
  np.testing.assert_allclose(
    loss, values['task_loss'] + values['recovery_loss'], rtol=1e-6
  )
  gradient = jax.grad(lambda p: model.loss_fn(p, batch, None)[0])(params)
  flat = model_lib.flat_params(gradient)
  dead = [n for n, g in flat.items() if not np.any(np.asarray(g))]
  assert dead == []
  # Through the bits down to the first layer: the straight-through estimator.
  assert np.any(np.asarray(flat['encoder/layers_0/mlp/wo/kernel']))


def test_recovery_does_not_count_padding(small_model, batch):
  model = small_model(3, 'calibrated')
  params = _variables(model)['params']
  padded = {
    **batch,
    'passage_tokens': jnp.pad(
      batch['passage_tokens'], ((0, 0), (0, 2), (0, 5))
    ),
  }
  recovery = [
    _values(model.loss_fn(params, b, None)[1])['recovery_loss']
    for b in (batch, padded)
  ]
  np.testing.assert_allclose(*recovery, rtol=1e-5)


def test_dropout_depends_on_the_key_alone(small_model, batch):
  model = small_model(1, dropout_rate=0.3)
  params = _variables(model)['params']
  losses_of = [
    float(model.loss_fn(params, batch, key)[0])
    for key in (jax.random.key(0), jax.random.key(0), jax.random.key(1), None)
  ]
  assert losses_of[0] == losses_of[1]
  assert len(set(losses_of)) == 3


def test_evaluation_has_the_task_loss_without_dropout(small_model, batch):
  model = small_model(3, dropout_rate=0.3)
  params = _variables(model)['params']
  loss, metrics = model.eval_fn(params, batch)
  assert set(metrics) == {'loss', 'token_accuracy'}
  expected = _values(model.loss_fn(params, batch, None)[1])['task_loss']
  np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_bad_arguments_are_named(small_model, batch):
  with pytest.raises(ValueError, match='stage is 4; expected 1'):
    small_model(4)
  with pytest.raises(ValueError, match="mode is 'jiont'; expected one of"):
    small_model(1, mode='jiont')
  with pytest.raises(ValueError, match="distill_tokens is 'best'"):
    small_model(2, distill_tokens='best')
  model = small_model(1)
  params = _variables(model)['params']
  with pytest.raises(ValueError, match='hold no .codec.*STAGE=3'):
    model.encode_passages(params, batch['passage_tokens'][0])
