"""LoRA: zero at first, the same merged or not, and only it moves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from btr_jax.baselines.language_model import config as config_lib
from btr_jax.baselines.language_model import fine_tuning, lora_files
from btr_jax.baselines.language_model import lora as lora_lib
from btr_jax.baselines.language_model import model as model_lib
from btr_jax.interop.checkpoint import ConversionError

# One object, so that its step is compiled once.
OPTIMIZER = optax.adam(0.03)
LORA = config_lib.LoraConfig(rank=3, alpha=6.0, dropout_rate=0.2)


def _random(updates, seed=0):
  generator = np.random.default_rng(seed)
  return jax.tree.map(
    lambda leaf: jnp.asarray(
      0.2 * generator.standard_normal(leaf.shape), jnp.float32
    ),
    updates,
  )


@pytest.fixture(scope='module')
def tiny(lm_config, lm_params):
  config = lm_config(num_layers=1, vocab_size=40)
  return config, lm_params(config)


def test_merged_or_beside_is_the_same(tiny):
  config, params = tiny
  tokens = np.random.default_rng(0).integers(0, 40, (2, 7))
  mask = np.ones((2, 7), bool)
  plain = jax.jit(model_lib.LanguageModel(config).apply)
  model = model_lib.LanguageModel(config, LORA)

  @jax.jit
  def both(variables, tokens, mask):
    rngs = {'dropout': jax.random.key(1)}
    dropped = model.apply(variables, tokens, mask, False, rngs=rngs)
    return model.apply(variables, tokens, mask), dropped

  expected = plain({'params': params}, tokens, mask)
  zero = lora_lib.initial(config, LORA, 0)
  variables = {'params': params, 'lora': zero}
  for found in both(variables, tokens, mask):
    np.testing.assert_allclose(found, expected, atol=1e-6)

  updates = _random(zero)
  variables = {'params': params, 'lora': updates}
  beside, dropped = both(variables, tokens, mask)
  assert np.abs(beside - expected).max() > 0.1
  merged = lora_lib.merged(params, updates, LORA)
  np.testing.assert_allclose(
    plain({'params': merged}, tokens, mask), beside, atol=1e-4
  )
  # By hand, with the scale alpha / rank = 2.
  query = updates['layers_0']['attention']['query']
  np.testing.assert_allclose(
    merged['layers_0']['attention']['query']['kernel'],
    params['layers_0']['attention']['query']['kernel']
    + 2 * np.asarray(query['down']) @ np.asarray(query['up']),
    atol=1e-6,
  )
  assert merged['norm']['scale'] is params['norm']['scale']
  assert np.abs(dropped - beside).max() > 1e-3


def test_only_lora_moves_and_the_loss_falls(tiny):
  """A toy: the answer is the token after that of the question."""
  config, params = tiny
  before = jax.tree.map(np.array, params)
  generator = np.random.default_rng(0)

  def batches():
    while True:
      asked = generator.integers(5, 30, (16, 1))
      ends = np.full((16, 1), 2)
      tokens = np.concatenate([asked - asked, asked, asked + 1, ends], axis=1)
      yield {
        'tokens': tokens.astype(np.int32),
        'mask': np.array([[False, True, True, True]] * 16),
        'target_mask': np.ones((16, 2), bool),
      }

  steps = []
  found = fine_tuning.fit(
    config,
    params,
    LORA,
    batches(),
    optimizer=OPTIMIZER,
    num_steps=60,
    seed=0,
    progress=lambda done, total, loss: steps.append((done, total)),
  )
  assert steps[-1] == (60, 60)
  assert np.mean(found.losses[-5:]) < 0.5 * np.mean(found.losses[:5])
  jax.tree.map(np.testing.assert_array_equal, params, before)
  start = lora_lib.initial(config, LORA, 0)
  moved = jax.tree.map(
    lambda a, b: float(np.abs(a - b).max()), found.updates, start
  )
  assert jax.tree.structure(moved) == jax.tree.structure(start)
  assert all(value > 1e-4 for value in jax.tree.leaves(moved))


def test_padding_and_prompt_have_no_loss(tiny):
  config, params = tiny
  model = model_lib.LanguageModel(config, LORA)
  updates = lora_lib.initial(config, LORA, 0)
  tokens = np.array([[9, 4, 5, 6, 7]], np.int32)
  mask = np.array([[False, True, True, True, True]])
  batch = {
    'tokens': tokens,
    'mask': mask,
    'target_mask': np.array([[False, True, True]]),
  }

  @jax.jit
  def both(params, updates, batch):
    logits = model.apply(
      {'params': params, 'lora': updates}, batch['tokens'], batch['mask']
    )
    loss = fine_tuning.answer_loss(model, params, updates, batch)
    return jax.nn.log_softmax(logits[0], -1), loss

  log, found = both(params, updates, batch)
  expected = -(log[2, 6] + log[3, 7]) / 2
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_loss_that_is_not_finite_stops(tiny):
  config, params = tiny
  params = {**params, 'norm': {'scale': params['norm']['scale'] * np.nan}}
  batch = {
    'tokens': np.ones((16, 4), np.int32),
    'mask': np.ones((16, 4), bool),
    'target_mask': np.ones((16, 2), bool),
  }
  with pytest.raises(FloatingPointError, match='at step 0'):
    fine_tuning.fit(
      config,
      params,
      LORA,
      iter([batch]),
      optimizer=OPTIMIZER,
      num_steps=1,
      seed=0,
    )


def test_adapters_come_back_from_disk(tmp_path, lm_config):
  config = lm_config()
  lora = config_lib.LoraConfig(rank=2, targets=('query', 'down'))
  updates = _random(lora_lib.initial(config, lora, 0))
  lora_files.save(tmp_path / 'adapter', updates, lora)
  found, found_lora = lora_files.load(tmp_path / 'adapter', config)
  assert found_lora == lora
  jax.tree.map(np.testing.assert_array_equal, found, updates)
  with pytest.raises(ConversionError, match=r'layers.2.*missing'):
    lora_files.load(tmp_path / 'adapter', lm_config(num_layers=3))
  with pytest.raises(FileExistsError):
    lora_files.save(tmp_path / 'adapter', updates, lora)
  path = tmp_path / 'adapter' / 'adapter_config.json'
  path.write_text(path.read_text().replace('"LORA"', '"IA3"'))
  with pytest.raises(ConversionError, match="peft_type is 'IA3'"):
    lora_files.load(tmp_path / 'adapter', config)


def test_updates_of_another_model_are_refused(tiny, lm_config):
  _, params = tiny
  other = lora_lib.initial(lm_config(mlp_dim=32), LORA, 0)
  with pytest.raises(ValueError, match='expected updates of this very model'):
    lora_lib.merged(params, other, LORA)
