"""The table of names and shapes, against the model itself."""

import dataclasses

import jax
import numpy as np
import pytest

from btr_jax import config as config_lib
from btr_jax.interop import checkpoint, names
from btr_jax.models import model as model_lib


@pytest.mark.parametrize(
  'codec, num_bits',
  [
    (None, None),
    ('calibrated', None),
    ('sign', None),
    ('residual', None),
    ('residual', 16),
    ('float', None),
  ],
)
@pytest.mark.parametrize('tied', [False, True])
def test_shapes_are_those_of_the_model(
  tiny_config, tiny_limits, codec, num_bits, tied
):
  activations = ('relu',) if tied else ('gelu', 'linear')
  config = dataclasses.replace(
    tiny_config,
    logits_via_embedding=tied,
    mlp_activations=activations,
    codec=config_lib.CodecConfig(codec or 'residual', num_bits),
  )
  model = model_lib.BtrModel(config, tiny_limits, stage=3 if codec else 1)
  tree = jax.eval_shape(
    lambda: model.get_initial_variables(
      jax.random.key(0), model.input_shapes()
    )['params']
  )
  expected = {
    name: value.shape for name, value in model_lib.flat_params(tree).items()
  }
  assert names.shapes(config, with_codec=codec is not None) == expected


def test_torch_names_are_distinct_and_reversible(
  tiny_config, random_tensors, assert_same_bits
):
  tensors = random_tensors(tiny_config)
  theirs = names.to_torch(tensors)
  assert len(theirs) == len(tensors)
  back, left_out = names.from_torch(theirs, tiny_config, 'memory')
  assert_same_bits(back, tensors)
  assert not left_out


def test_copies_of_the_embedding_are_left_out(tiny_config, random_tensors):
  theirs = names.to_torch(random_tensors(tiny_config))
  for stack in ('encoder', 'decoder'):
    theirs[f'{stack}.embed_tokens.weight'] = theirs['shared.weight'].copy()
  unused = 'decoder.block.0.layer.1.EncDecAttention.relative_attention_bias'
  theirs[f'{unused}.weight'] = np.zeros((32, 2), np.float32)
  _, left_out = names.from_torch(theirs, tiny_config, 'memory')
  assert sorted(left_out.values()) == [1, 2]


def test_any_name_of_the_embedding_will_do(tiny_config, random_tensors):
  theirs = names.to_torch(random_tensors(tiny_config))
  theirs['decoder.embed_tokens.weight'] = theirs.pop('shared.weight')
  ours, _ = names.from_torch(theirs, tiny_config, 'memory')
  assert ours[names.EMBEDDING] is theirs['decoder.embed_tokens.weight']


def test_different_embeddings_are_refused(tiny_config, random_tensors):
  theirs = names.to_torch(random_tensors(tiny_config))
  theirs['encoder.embed_tokens.weight'] = theirs['shared.weight'] + 1
  with pytest.raises(checkpoint.ConversionError, match='share one embedding'):
    names.from_torch(theirs, tiny_config, 'memory')


def test_logits_of_their_own_are_refused_where_tied(
  tiny_config, random_tensors
):
  tied = dataclasses.replace(tiny_config, logits_via_embedding=True)
  theirs = names.to_torch(random_tensors(tiny_config))
  with pytest.raises(checkpoint.ConversionError, match='tie_word_embeddings'):
    names.from_torch(theirs, tied, 'memory')
  theirs['lm_head.weight'] = theirs['shared.weight'].copy()
  ours, left_out = names.from_torch(theirs, tied, 'memory')
  assert names.LOGITS not in ours and list(left_out.values()) == [1]


def test_every_difference_is_listed(tiny_config, random_tensors):
  theirs = names.to_torch(random_tensors(tiny_config))
  del theirs['encoder.final_layer_norm.weight']
  theirs['classifier.weight'] = np.zeros((3, 4), np.float32)
  theirs['lm_head.weight'] = theirs['lm_head.weight'][:7]
  theirs['shared.weight'] = theirs['shared.weight'].astype(np.float64)
  with pytest.raises(checkpoint.ConversionError) as error:
    names.from_torch(theirs, tiny_config, 'weights.bin')
  message = str(error.value)
  assert message.startswith('weights.bin does not fit (4 differences)')
  for line in (
    'encoder.final_layer_norm.weight: missing, expected (32,)',
    'classifier.weight: unknown, found (3, 4)',
    'lm_head.weight: found (7, 32), expected (240, 32)',
    'shared.weight: dtype float64, expected one of float32',
  ):
    assert line in message


def test_a_long_list_is_cut_and_counted(tiny_config):
  with pytest.raises(checkpoint.ConversionError, match=r'\.\.\. and \d+ more'):
    names.from_torch({}, tiny_config, 'empty')


def test_same_bits_knows_nan_and_signed_zero():
  a = np.array([np.nan, 0.0], np.float32)
  assert checkpoint.same_bits(a, a.copy())
  assert not checkpoint.same_bits(a, np.array([np.nan, -0.0], np.float32))
  assert not checkpoint.same_bits(a, a.astype(np.float16))
  assert not checkpoint.same_bits(a, a[:1])


def test_cast_refuses_what_overflows():
  tensors = {'a': np.array([1.0, 1e6], np.float32)}
  with pytest.raises(checkpoint.ConversionError, match='1e[+]06, which float'):
    checkpoint.cast(tensors, 'float16')
  assert checkpoint.cast(tensors, 'bfloat16')['a'].dtype.name == 'bfloat16'
  assert checkpoint.cast(tensors, 'float32')['a'] is tensors['a']
