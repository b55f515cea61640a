"""Matrices as small integers: packing, programs, files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from btr_jax.models import model as model_lib
from btr_jax.models import quantized, reader_files


@pytest.mark.parametrize('rows', [2, 6])
def test_four_bits_come_back(rows):
  codes = np.arange(-8, 8, dtype=np.int8)
  codes = np.stack([codes, codes[::-1]] * (rows // 2))
  packed = quantized.pack(codes)
  assert packed.shape == (rows // 2, 16) and packed.dtype == np.uint8
  np.testing.assert_array_equal(quantized.unpack(packed), codes)


def test_what_four_bits_cannot_hold_is_refused():
  with pytest.raises(ValueError, match='3 rows'):
    quantized.pack(np.zeros((3, 4), np.int8))
  with pytest.raises(ValueError, match='-8 to 7'):
    quantized.pack(np.full((2, 4), 8, np.int8))


def test_each_block_has_its_scale():
  codes = np.arange(24, dtype=np.int8).reshape(6, 4)
  scale = np.array([[1.0, 2.0], [10.0, 20.0], [0.5, 0.25]], np.float16)
  found = quantized.dequantize({'codes': codes, 'scale': scale})
  wanted = codes * np.kron(scale, np.ones((2, 2)))
  np.testing.assert_array_equal(found, wanted.astype(np.float32))
  assert (
    quantized.dequantize({'codes': codes, 'scale': scale}, 'bfloat16').dtype
    == jnp.bfloat16
  )


def test_blocks_that_do_not_fit_are_refused():
  codes, scale = np.zeros((6, 4), np.int8), np.ones((4, 4), np.float16)
  with pytest.raises(ValueError, match='do not divide'):
    quantized.dequantize({'codes': codes, 'scale': scale})
  with pytest.raises(ValueError, match='int32'):
    quantized.dequantize({'codes': codes.astype(np.int32), 'scale': scale})


def _in_codes(reader):
  """Parameters with a matrix in codes, and the same in float32."""
  flat = model_lib.flat_params(reader.params)
  name = 'decoder/layers_0/mlp/wo/kernel'
  rows, columns = flat[name].shape
  generator = np.random.default_rng(0)
  codes = generator.integers(-8, 8, (rows, columns)).astype(np.int8)
  scale = generator.uniform(0.01, 0.1, (2, columns)).astype(np.float16)
  node = {'codes': quantized.pack(codes), 'scale': scale}
  whole = {**flat, name: quantized.dequantize(node)}
  return (
    model_lib.nested_params({**flat, name: node}),
    model_lib.nested_params(whole),
  )


def test_a_norm_named_scale_is_no_node(tiny_family):
  reader = reader_files.load_reader(tiny_family, 'joint')
  assert not quantized.stored_names(set(model_lib.flat_params(reader.params)))
  same = quantized.dequantize_params(reader.params)
  for before, after in zip(
    jax.tree.leaves(reader.params), jax.tree.leaves(same), strict=True
  ):
    assert before is after


def test_files_keep_codes_and_types(tmp_path, tiny_family):
  reader = reader_files.load_reader(tiny_family, 'joint')
  params, whole = _in_codes(reader)
  for name in ('once', 'twice'):
    reader_files.save_reader(
      tmp_path / name,
      reader.config,
      reader.limits,
      params,
      reader.vocabulary.path,
      dtype='bfloat16',
    )
    loaded = reader_files.load_reader(tmp_path / name)
    node = loaded.params['decoder']['layers_0']['mlp']['wo']['kernel']
    assert node['codes'].dtype == jnp.uint8
    assert node['scale'].dtype == jnp.float16
    np.testing.assert_array_equal(
      quantized.dequantize(node),
      whole['decoder']['layers_0']['mlp']['wo']['kernel'],
    )
    params = loaded.params
  assert (tmp_path / 'once/model.safetensors').read_bytes() == (
    tmp_path / 'twice/model.safetensors'
  ).read_bytes()


def test_a_matrix_without_its_scale_is_refused(tmp_path, tiny_family):
  reader = reader_files.load_reader(tiny_family, 'joint')
  params, _ = _in_codes(reader)
  del params['decoder']['layers_0']['mlp']['wo']['kernel']['scale']
  reader_files.save_reader(
    tmp_path / 'damaged',
    reader.config,
    reader.limits,
    params,
    reader.vocabulary.path,
  )
  with pytest.raises(reader_files.ReaderFileError, match='wo/kernel'):
    reader_files.load_reader(tmp_path / 'damaged')
