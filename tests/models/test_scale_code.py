"""The scale in one byte: what it holds, and what that leaves as it was."""

from __future__ import annotations

import dataclasses

import hypothesis
from hypothesis import strategies
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from btr_jax import config as config_lib
from btr_jax.models import codecs, scale_code, token_codec

BYTES = (scale_code.RMS_BYTE, scale_code.VARIANCE_BYTE)


@pytest.mark.parametrize('byte', BYTES)
@hypothesis.given(
  share=strategies.lists(
    strategies.floats(0, 1, width=32), min_size=32, max_size=32
  )
)
@hypothesis.settings(max_examples=50, deadline=None)
def test_a_byte_is_as_near_as_it_says_and_keeps_the_order(byte, share):
  low, high = np.log2(byte.limits)
  values = np.sort(np.exp2(low + (high - low) * np.array(share, np.float64)))
  raw = byte.to_bytes(jnp.asarray(values, jnp.float32))
  assert (np.diff(np.asarray(raw).astype(int)) >= 0).all()
  held = np.asarray(byte.from_bytes(raw), np.float64)
  # Float32 may round a number between two codes to either.
  assert np.abs(held / values - 1).max() <= byte.relative_error + 1e-5


@pytest.mark.parametrize('byte', BYTES)
def test_every_byte_stands_for_itself(byte):
  raw = np.arange(256, dtype=np.uint8)[None]
  values = byte.from_bytes(jnp.asarray(raw))
  np.testing.assert_array_equal(byte.to_bytes(values), raw)
  np.testing.assert_allclose(values[0, [0, -1]], byte.limits, rtol=1e-6)
  np.testing.assert_array_equal(byte.round(values), values)


def test_what_lies_outside_gets_the_nearest_end():
  byte = scale_code.RMS_BYTE
  low, high = byte.limits
  values = jnp.asarray([0.0, low / 9, high * 9, jnp.inf])
  np.testing.assert_array_equal(byte.to_bytes(values), [0, 0, 255, 255])


def test_the_root_of_the_variance_has_the_error_of_the_rms():
  """Half the steps for the square: both codecs' scales are equally good."""
  values = jnp.exp2(jnp.linspace(-1, 14.9, 1000))
  np.testing.assert_array_equal(
    scale_code.RMS_BYTE.to_bytes(values),
    scale_code.VARIANCE_BYTE.to_bytes(jnp.square(values)),
  )


def test_the_gradient_passes():
  gradient = jax.grad(lambda x: jnp.sum(scale_code.RMS_BYTE.round(x) * 3))
  np.testing.assert_array_equal(gradient(jnp.asarray([0.1, 2.0, 9e9])), 3)


@pytest.mark.parametrize('kind', ['calibrated', 'residual'])
def test_one_byte_of_scale_changes_no_bit_and_is_read_back_exactly(
  small_config, kind
):
  rng = np.random.default_rng(0)
  states = jnp.asarray(rng.normal(size=(4, 9, 16)) * 20, jnp.float32)
  token_ids = jnp.asarray(rng.integers(1, 48, (4, 9)))
  norm_scale = jnp.linspace(0.5, 2.0, 16)
  config = small_config(kind)
  narrow = dataclasses.replace(
    config, codec=dataclasses.replace(config.codec, scale_bits=8)
  )

  def everything(module, states):
    code = module.encode(states, token_ids, norm_scale)
    module.recovery_error(code, states, token_ids, norm_scale)
    return module.decode(code, token_ids, norm_scale)

  wide_codec = codecs.make_codec(config)
  params = wide_codec.init(jax.random.key(0), states, method=everything)
  found = []
  for one in (wide_codec, codecs.make_codec(narrow)):
    codec = one.bind(params)
    code = codec.encode(states, token_ids, norm_scale)
    packed = codec.pack(code)
    unpacked = codec.unpack(packed)
    np.testing.assert_array_equal(unpacked.values, code.values)
    np.testing.assert_array_equal(unpacked.scale, code.scale)
    layout = token_codec.codec_layout(codec.config)
    assert packed.scale.shape[-1] == layout.scale_bytes
    found.append((packed, codec.decode(unpacked, token_ids, norm_scale)))
  (wide, wide_states), (short, short_states) = found
  np.testing.assert_array_equal(wide.bits, short.bits)
  assert wide.scale.shape[-1] - short.scale.shape[-1] == 1
  error = scale_code.RMS_BYTE.relative_error
  ratio = np.asarray(short_states / wide_states)
  np.testing.assert_allclose(ratio, 1, atol=error + 2**-8)


def test_a_reader_from_before_is_what_it_was(small_config):
  """Its reader.json has no such field; fingerprints are of to_dict()."""
  stored = small_config('calibrated').to_dict()
  assert stored['codec'] == {'kind': 'calibrated', 'num_bits': None}
  config = config_lib.ReaderConfig.from_dict(stored)
  assert config.codec.scale_bits == 16
  assert config.to_dict() == stored
  short = small_config('calibrated', scale_bits=8)
  assert short.to_dict()['codec']['scale_bits'] == 8
  assert config_lib.ReaderConfig.from_dict(short.to_dict()) == short


@pytest.mark.parametrize(
  'kind, bits, message',
  [
    ('calibrated', 4, r'scale_bits is 4; expected one of \(8, 16\)'),
    ('sign', 8, "has no meaning for codec 'sign'"),
    ('float', 8, "has no meaning for codec 'float'"),
  ],
)
def test_scale_bits_that_mean_nothing(kind, bits, message):
  with pytest.raises(ValueError, match=message):
    config_lib.CodecConfig(kind, scale_bits=bits)
