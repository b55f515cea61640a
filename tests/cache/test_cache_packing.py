"""Bits: packed, unpacked, and the same as on the device."""

from __future__ import annotations

import hypothesis
from hypothesis import strategies
from hypothesis.extra import numpy as numpy_strategies
import jax.numpy as jnp
import numpy as np
import pytest

from btr_jax.cache import packing

shapes = strategies.tuples(
  strategies.integers(0, 4), strategies.integers(1, 5).map(lambda n: 8 * n)
)


@hypothesis.given(numpy_strategies.arrays(bool, shapes))
def test_unpacking_gives_the_bits_back(bits):
  packed = packing.pack_signs(bits)
  assert packed.dtype == np.uint8
  assert packed.shape == (bits.shape[0], bits.shape[1] // 8)
  np.testing.assert_array_equal(packing.unpack_bits(packed), bits)


@hypothesis.given(
  numpy_strategies.arrays(
    np.float32, shapes, elements=strategies.floats(-2, 2, width=32)
  )
)
def test_signs_are_plus_one_above_zero_only(values):
  signs = packing.unpack_signs(packing.pack_signs(values))
  assert signs.dtype == np.float32
  np.testing.assert_array_equal(signs, np.where(values > 0, 1, -1))


def test_the_first_dimension_is_the_highest_bit():
  values = np.array([[1.0, -1, -1, -1, -1, -1, -1, 2, -1, 3, 0, 0, 0, 0, 0, 0]])
  packed = packing.pack_signs(values)
  np.testing.assert_array_equal(packed, [[0b10000001, 0b01000000]])


def test_the_device_packs_the_same_bytes():
  values = np.random.default_rng(0).standard_normal((3, 5, 64))
  on_device = jnp.packbits(jnp.asarray(values > 0), axis=-1)
  np.testing.assert_array_equal(packing.pack_signs(values), on_device)


def test_a_width_that_is_no_multiple_of_eight_is_refused():
  with pytest.raises(ValueError, match='12 dimensions.*multiple of 8'):
    packing.pack_signs(np.ones((2, 12)))


def test_token_ids_are_never_cut_off():
  ids = packing.narrow_token_ids(np.array([0, 65535]), 'uint16')
  assert ids.dtype == np.uint16
  np.testing.assert_array_equal(ids, [0, 65535])
  with pytest.raises(ValueError, match='65536 do not fit uint16'):
    packing.narrow_token_ids(np.array([1, 65536]), 'uint16')
  with pytest.raises(ValueError, match='from -1'):
    packing.narrow_token_ids(np.array([-1, 3]), 'int32')
