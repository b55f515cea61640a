"""Deeper readers that begin as the shallower ones."""

import numpy as np
import pytest

from btr_jax.models import growth, reader_files, trees
from btr_jax.models import model as model_lib
from btr_jax.tools import common, grow_reader


def _loss(model, params, batch):
  return float(model.loss_fn(params, batch, None)[0])


@pytest.mark.parametrize(('lower', 'upper'), [(1, 0), (0, 1), (2, 2)])
@pytest.mark.parametrize('stage', [1, 2])
def test_grown_reader_begins_as_the_old_one(
  small_model, drawn_params, random_batch, lower, upper, stage
):
  options = {'distill_tokens': 'none'} if stage == 2 else {}
  model = small_model(stage, 'float', **options)
  params = drawn_params(model)
  config, deeper = growth.grow(model.config, params, lower, upper)
  assert config.num_encoder_layers == 3 + lower + upper
  assert config.split_layer == 2 + lower
  grown = model_lib.BtrModel(config, model.limits, stage=stage, **options)
  expected = trees.flat_params(drawn_params(grown))
  assert set(trees.flat_params(deeper)) == set(expected)
  batch = random_batch()
  np.testing.assert_allclose(
    _loss(grown, deeper, batch), _loss(model, params, batch), rtol=1e-6
  )


def test_new_layers_are_copies_beside_their_neighbour(
  small_model, drawn_params
):
  model = small_model(1, 'float')
  params = drawn_params(model)
  _, deeper = growth.grow(model.config, params, lower=1, upper=1)
  old = trees.flat_params(params)
  new = trees.flat_params(deeper)
  query = 'attention/query/kernel'
  # Layers 0 1 | 2 become 0 1 1' | 2 2'.
  for place, layer in enumerate((0, 1, 1, 2, 2)):
    np.testing.assert_array_equal(
      new[f'encoder/layers_{place}/{query}'],
      old[f'encoder/layers_{layer}/{query}'],
    )
  for place, silent in enumerate((False, False, True, False, True)):
    assert silent == (not np.any(new[f'encoder/layers_{place}/mlp/wo/kernel']))


@pytest.mark.parametrize(
  ('lower', 'upper', 'message'),
  [(0, 0, 'both 0'), (-1, 0, 'lower is -1'), (0, -2, 'upper is -2')],
)
def test_numbers_that_do_not_fit(
  small_model, drawn_params, lower, upper, message
):
  model = small_model(1, 'float')
  with pytest.raises(ValueError, match=message):
    growth.grow(model.config, drawn_params(model), lower, upper)


def test_command_writes_a_reader_and_spares_what_is_there(
  tmp_path, tiny_family
):
  output = tmp_path / 'deeper'
  arguments = [str(tiny_family), '--mode', 'decomposed', '--upper', '1']
  assert not grow_reader.main([*arguments, '--output', str(output)])
  old = reader_files.load_reader(tiny_family, mode='decomposed')
  reader = reader_files.load_reader(output, mode='decomposed')
  assert reader.config.num_encoder_layers == old.config.num_encoder_layers + 1
  assert reader.config.split_layer == old.config.split_layer
  assert reader.provenance['grown_from'] == old.fingerprint
  with pytest.raises(common.UserError, match='there already'):
    grow_reader.main([*arguments, '--output', str(output)])
  with pytest.raises(common.UserError, match='upper is -1'):
    grow_reader.main(
      [str(tiny_family), '--upper', '-1', '--output', str(tmp_path / 'x')]
    )
  assert not (tmp_path / 'x').exists()
