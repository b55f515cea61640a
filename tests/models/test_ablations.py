"""The switches that ablations are trained with: annealing, recovery, wiring."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from btr_jax import config as config_lib
from btr_jax.models import codecs, frozen, levels

EMBED = 16
ANNEALING = config_lib.AnnealingConfig(train_steps=10, last_beta=1e4)


def values_of(metrics):
  return {name: float(metric.compute()) for name, metric in metrics.items()}


@pytest.fixture(scope='module')
def states():
  rng = np.random.default_rng(0)
  scale = np.exp(rng.normal(size=EMBED))
  return jnp.asarray(rng.normal(size=(5, 7, EMBED)) * scale * 4, jnp.float32)


@pytest.fixture(scope='module')
def token_ids():
  return jnp.asarray(np.random.default_rng(1).integers(1, 48, (5, 7)))


@pytest.fixture(scope='module')
def norm_scale():
  return jnp.linspace(0.5, 2.0, EMBED)


# ------------------------------------------------------------------ annealing


@pytest.mark.parametrize('kind', ['calibrated', 'sign', 'residual'])
def test_codes_are_tanh_with_a_beta_and_signs_without(
  small_config, states, token_ids, norm_scale, kind
):
  codec = codecs.make_codec(small_config(kind))
  variables = codec.init(
    jax.random.key(0), states, token_ids, norm_scale, method='encode'
  )
  codec = codec.bind(variables)
  beta = jnp.float32(3.0)

  def encode(states, beta=None):
    return codec.encode(states, token_ids, norm_scale, beta)

  hard, soft = encode(states), encode(states, beta)
  assert set(np.unique(hard.values)) == {-1.0, 1.0}
  np.testing.assert_array_equal(hard.scale, soft.scale)
  np.testing.assert_array_equal(np.sign(soft.values), hard.values)
  assert np.abs(soft.values).min() < 0.9
  # What comes before the sign, from a tanh of known steepness.
  before = np.arctanh(np.asarray(encode(states, jnp.float32(0.01)).values))
  before = before.astype(np.float64) / 0.01
  np.testing.assert_allclose(
    soft.values, np.tanh(3.0 * before), rtol=1e-3, atol=1e-4
  )
  if kind != 'sign':
    return
  weights = jnp.arange(EMBED, dtype=jnp.float32)[None, None]
  gradient = jax.grad(lambda s: jnp.sum(encode(s, beta).values * weights))(
    states
  )
  exact = np.asarray(states, np.float64)
  expected = np.asarray(weights) * 3.0 * (1 - np.tanh(3.0 * exact) ** 2)
  np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('kind', ['calibrated', 'residual'])
def test_annealing_ends_in_the_signs_that_are_evaluated(
  small_model, drawn_params, random_batch, kind
):
  model = small_model(3, kind, annealing=ANNEALING)
  plain = small_model(3, kind)
  params, batch = drawn_params(plain), random_batch()
  first, last = (
    values_of(model.loss_fn(params, batch, None, step=step)[1])
    for step in (0, 10)
  )
  assert first['beta'] == 1.0 and last['beta'] == pytest.approx(1e4)
  hard = values_of(plain.loss_fn(params, batch, None)[1])
  assert set(first) == set(hard) | {'beta'}
  distance = [abs(x['task_loss'] - hard['task_loss']) for x in (first, last)]
  assert distance[1] < 0.1 * distance[0]
  # Evaluation, answers and caches have hard signs, whatever the step.
  evaluated = values_of(model.eval_fn(params, batch)[1])
  assert evaluated['loss'] == pytest.approx(hard['task_loss'], rel=1e-6)
  tokens = batch['passage_tokens'][0]
  for name, found in model.encode_passages(params, tokens).items():
    np.testing.assert_array_equal(
      found, plain.encode_passages(params, tokens)[name]
    )
  np.testing.assert_array_equal(
    model.encode(params, batch).states, plain.encode(params, batch).states
  )


def test_annealing_is_refused_where_no_sign_is_trained(
  small_model, random_batch
):
  for options in ({'bits_per_dim': 2}, {'codec': 'float'}):
    with pytest.raises(ValueError, match="BINARIZER is 'annealed' with codec"):
      small_model(3, annealing=ANNEALING, **options)
  with pytest.raises(ValueError, match='TRAIN_LOWER=False; the signs'):
    small_model(3, annealing=ANNEALING, train_lower=False)
  with pytest.raises(ValueError, match='ANNEAL_BETA is 1.0; expected more'):
    dataclasses.replace(ANNEALING, last_beta=1.0)
  with pytest.raises(ValueError, match='expected 1: tanh anneals to a sign'):
    levels.quantize(jnp.ones(3), 2, jnp.float32(2.0))
  with pytest.raises(ValueError, match='depend on the step, which is None'):
    small_model(3, annealing=ANNEALING).loss_fn({}, random_batch(), None)


# ------------------------------------------------------------------- recovery


@pytest.mark.parametrize('kind', ['calibrated', 'residual'])
def test_recovery_of_no_weight_is_no_term(
  small_model, drawn_params, random_batch, kind
):
  on, half = small_model(3, kind), small_model(3, kind, recovery_weight=0.5)
  off = small_model(3, kind, recovery_weight=0.0)
  params, batch = drawn_params(on), random_batch()
  found = {
    name: values_of(model.loss_fn(params, batch, None)[1])
    for name, model in (('on', on), ('half', half), ('off', off))
  }
  assert set(found['off']) == {'loss', 'task_loss', 'token_accuracy'}
  task, recovery = found['on']['task_loss'], found['on']['recovery_loss']
  for name, weight in (('on', 1.0), ('half', 0.5), ('off', 0.0)):
    expected = task + weight * recovery
    assert found[name]['loss'] == pytest.approx(expected, rel=1e-6)

  def program(model):
    compute = lambda p, b: model.loss_fn(p, b, None)[0]  # noqa: E731
    return str(jax.make_jaxpr(compute)(params, batch))

  # Not even written down, and yet the parameters are those of any reader.
  assert len(program(off)) < len(program(half))
  assert jax.tree.structure(drawn_params(off)) == jax.tree.structure(params)
  with pytest.raises(ValueError, match='RECOVERY_WEIGHT is -1.0; expected 0'):
    small_model(3, kind, recovery_weight=-1.0)


# --------------------------------------------------------------------- wiring


def wired(wiring, states, norm_scale):
  """(residual branch, what attention reads) in float64, bfloat16 aside."""
  x, w = np.asarray(states, np.float64), np.asarray(norm_scale, np.float64)
  variance = np.mean(x**2, axis=-1, keepdims=True) + 1e-6
  b = np.where(w * x > 0, 1.0, -1.0)
  stream = {
    'recovered': b * np.sqrt(variance) / w,
    'bits': b * np.sqrt(variance) / w,
    'rms': b * np.sqrt(variance),
    'unscaled': b,
  }[wiring]
  normed = w * stream / np.sqrt(np.mean(stream**2, -1, keepdims=True) + 1e-6)
  return stream, b if wiring == 'bits' else normed


@pytest.mark.parametrize('wiring', config_lib.WIRINGS)
def test_wirings_follow_their_formulas(
  small_model, drawn_params, random_batch, wiring
):
  """What the first upper layer gets, by a stand-in that keeps it."""
  model = small_model(3, 'calibrated', wiring=wiring)
  params = drawn_params(model)
  batch = random_batch()
  seen = {}

  def keep(module, *inputs):
    encoder = module.encoder
    original = encoder.upper

    def upper(states, mask, deterministic, trace, reading):
      normed = encoder.split_norm(states)
      seen.update(
        stream=states, read=normed if reading is None else reading, mask=mask
      )
      return original(states, mask, deterministic, trace, reading)

    object.__setattr__(encoder, 'upper', upper)
    module.encode(*inputs, 'binary')
    lower = module.passage_states
    return (
      lower(inputs[0]),
      lower(inputs[1].reshape(-1, inputs[1].shape[-1])),
      encoder.split_norm_scale(),
    )

  inputs = batch['question_tokens'], batch['passage_tokens']
  question, passages, norm_scale = model.module.apply(
    {'params': params}, *inputs, method=keep
  )
  stream, read = wired(wiring, passages, norm_scale)
  length = question.shape[1]
  np.testing.assert_allclose(seen['stream'][:, length:], stream, rtol=2**-8)
  np.testing.assert_allclose(seen['read'][:, length:], read, rtol=1e-4)
  # The question's part is what it always is.
  question = np.repeat(np.asarray(question, np.float64), 3, axis=0)
  rms = np.sqrt(np.mean(question**2, -1, keepdims=True) + 1e-6)
  expected = question / rms * np.asarray(norm_scale)
  np.testing.assert_allclose(
    seen['read'][:, :length], expected, rtol=1e-4, atol=1e-5
  )


@pytest.mark.parametrize('wiring', ['bits', 'rms', 'unscaled'])
def test_wirings_read_the_same_bytes(
  small_model, drawn_params, random_batch, wiring
):
  """From a cache as computed here, merged or not; other than the default."""
  model = small_model(3, 'calibrated', wiring=wiring)
  plain = small_model(3, 'calibrated')
  params, batch = drawn_params(plain), random_batch()
  flat = batch['passage_tokens'].reshape(-1, 10)
  packed = model.encode_passages(params, flat)
  for name, found in plain.encode_passages(params, flat).items():
    np.testing.assert_array_equal(packed[name], found)
  codes = {
    f'passage_{name}': array.reshape(2, 3, 10, array.shape[-1])
    for name, array in packed.items()
  }
  for ratio in (0.0, 0.25):
    how = config_lib.InferenceConfig(
      merging=config_lib.MergingConfig(intra_ratio=ratio)
    )

    def encode(model, batch, how=how):
      return model.encode(params, batch, inference=how).states

    here, cached = encode(model, batch), encode(model, {**batch, **codes})
    np.testing.assert_allclose(here, cached, atol=1e-5)
    other = encode(plain, batch)
    assert float(jnp.abs(here - other).max()) > 1e-3


def test_readers_of_before_are_what_they_were(
  small_config, small_model, drawn_params
):
  """A reader.json without the field, and fingerprints of what they have."""
  plain = small_config('calibrated').to_dict()
  assert 'wiring' not in plain['codec']
  config = config_lib.ReaderConfig.from_dict(plain)
  assert config.codec.wiring == 'recovered'
  model = small_model(3, 'calibrated')
  # Of these lower layers before there was a choice.
  assert frozen.fingerprint(drawn_params(model), config) == FINGERPRINT
  other = small_config('calibrated', wiring='rms')
  written = json.loads(json.dumps(other.to_dict()))
  assert config_lib.ReaderConfig.from_dict(written) == other
  with pytest.raises(ValueError, match="codec.wiring is 'norm'; expected one"):
    small_model(3, 'calibrated', wiring='norm')
  with pytest.raises(ValueError, match="no meaning for codec 'residual'"):
    small_model(3, 'residual', wiring='bits')


FINGERPRINT = '158b0f53172881cdf11a97c1893f5284375acfcce1a4b118416af2521fdd8dac'
