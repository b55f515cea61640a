"""Rotary positions: turns by hand, and the scalings' definitions."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest

from btr_jax.baselines.language_model import config as config_lib
from btr_jax.baselines.language_model import rope


def test_pairs_turn_by_their_angle(lm_config):
  config = lm_config(head_dim=4, rope_theta=100.0)
  # Frequencies 1 and 1/10.
  heads = jnp.asarray([1.0, 2.0, 0.0, 0.0]).reshape(1, 1, 1, 4)
  angle = rope.angles(jnp.asarray([[3]]), config)
  turned = rope.rotate(heads, angle)[0, 0, 0]
  expected = [
    math.cos(3.0),
    2 * math.cos(0.3),
    math.sin(3.0),
    2 * math.sin(0.3),
  ]
  np.testing.assert_allclose(turned, expected, rtol=1e-6)


def test_scores_depend_on_distance_alone(lm_config):
  config = lm_config()
  generator = np.random.default_rng(0)
  query, key = generator.normal(size=(2, 1, 1, 1, 8)).astype(np.float32)

  def score(query_position, key_position):
    rotated = [
      rope.rotate(
        jnp.asarray(heads), rope.angles(jnp.asarray([[position]]), config)
      )
      for heads, position in ((query, query_position), (key, key_position))
    ]
    return float(jnp.sum(rotated[0] * rotated[1]))

  assert score(5, 2) == pytest.approx(score(105, 102), abs=1e-4)
  assert score(5, 2) != pytest.approx(score(5, 3), abs=1e-2)


def test_scalings(lm_config):
  config = lm_config(head_dim=64, rope_theta=500000.0)
  plain = rope.inverse_frequencies(config)

  def scaled(*args, **kwargs):
    scaling = config_lib.RopeScaling(*args, **kwargs)
    return rope.inverse_frequencies(
      dataclasses.replace(config, rope_scaling=scaling)
    )

  np.testing.assert_allclose(scaled('linear', 4.0), plain / 4)
  llama3 = scaled('llama3', 8.0, 1.0, 4.0, 8192)
  waves = 2 * np.pi / plain
  np.testing.assert_allclose(llama3[waves < 2048], plain[waves < 2048])
  np.testing.assert_allclose(llama3[waves > 8192], plain[waves > 8192] / 8)
  between = (waves > 2048) & (waves < 8192)
  assert between.any()
  assert np.all(llama3[between] < plain[between])
  assert np.all(llama3[between] > plain[between] / 8)
  # As GGUF stores it.
  factors = scaled('factors', factors=tuple(plain / llama3))
  np.testing.assert_allclose(factors, llama3)


@pytest.mark.parametrize(
  'make, message',
  [
    (lambda c: config_lib.RopeScaling('yarn'), 'yarn'),
    (lambda c: config_lib.RopeScaling('linear', 0.0), 'above 0'),
    (lambda c: config_lib.RopeScaling('llama3', 8.0, 4.0, 1.0), 'low < high'),
    (lambda c: c(num_kv_heads=3), 'no multiple'),
    (lambda c: c(head_dim=7), 'even'),
    (lambda c: c(num_layers=0), 'num_layers is 0'),
    (
      lambda c: c(rope_scaling=config_lib.RopeScaling('factors')),
      '0 factors; expected',
    ),
    (lambda c: config_lib.LoraConfig(rank=0), 'rank is 0'),
    (lambda c: config_lib.LoraConfig(targets=('wi',)), "'wi'"),
    (lambda c: config_lib.LoraConfig(dropout_rate=1.0), 'dropout_rate'),
  ],
)
def test_impossible_configurations_are_refused(lm_config, make, message):
  with pytest.raises(ValueError, match=message):
    make(lm_config)
