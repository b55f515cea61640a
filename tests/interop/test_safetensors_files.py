"""Safetensors: against the package's own reader, sharded, damaged."""

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.flax
import safetensors.numpy

from btr_jax.interop import safetensors_files
from btr_jax.interop.checkpoint import ConversionError


def _tensors():
  generator = np.random.default_rng(0)
  values = generator.normal(size=(5, 3))
  return {
    'b': values.astype(np.float32).T,  # not contiguous
    'a': values.astype(ml_dtypes.bfloat16),
    'c/half': values[:, 0].astype(np.float16),
    'empty': np.zeros((0, 3), np.float32),
    'scalar': np.array(3.5, np.float32),
  }


def test_the_package_reads_what_is_written(tmp_path, assert_same_bits):
  path = tmp_path / 'x.safetensors'
  safetensors_files.write_file(path, _tensors(), {'format': 'pt'})
  theirs = safetensors.flax.load_file(path)
  assert_same_bits({n: np.asarray(v) for n, v in theirs.items()}, _tensors())
  with safetensors.safe_open(path, 'np') as file:
    assert file.metadata() == {'format': 'pt'}


def test_the_package_would_write_the_same_bytes(tmp_path):
  path = tmp_path / 'x.safetensors'
  tensors = {n: np.ascontiguousarray(v) for n, v in _tensors().items()}
  safetensors_files.write_file(path, tensors)
  assert path.read_bytes() == safetensors.flax.save(tensors)


def test_what_the_package_writes_is_read(tmp_path, assert_same_bits):
  path = tmp_path / 'x.safetensors'
  tensors = {n: np.ascontiguousarray(v) for n, v in _tensors().items()}
  safetensors.flax.save_file(tensors, path)
  assert_same_bits(safetensors_files.read_file(path), tensors)


def test_shards(tmp_path, assert_same_bits):
  files = safetensors_files.write_folder(tmp_path, _tensors(), 40)
  assert files[0] == 'model-00001-of-00003.safetensors'
  with safetensors.safe_open(tmp_path / files[0], 'np') as file:
    assert file.metadata() == {'format': 'pt'}  # transformers asks for it
  assert sorted(p.name for p in tmp_path.iterdir()) == sorted(files)
  index = tmp_path / 'model.safetensors.index.json'
  assert_same_bits(safetensors_files.read_sharded(index), _tensors())
  total = sum(value.nbytes for value in _tensors().values())
  assert json.loads(index.read_text())['metadata'] == {'total_size': total}


def test_a_missing_shard_is_named(tmp_path):
  files = safetensors_files.write_folder(tmp_path, _tensors(), 40)
  (tmp_path / files[1]).unlink()
  with pytest.raises(ConversionError, match=files[1]):
    safetensors_files.read_sharded(tmp_path / files[-1])


def test_shards_of_two_checkpoints_are_refused(tmp_path):
  files = safetensors_files.write_folder(tmp_path, _tensors(), 40)
  safetensors_files.write_file(tmp_path / files[0], {'x': np.zeros(2, 'f4')})
  with pytest.raises(ConversionError, match=r"lack \['a'\] and hold \['x'\]"):
    safetensors_files.read_sharded(tmp_path / files[-1])


@pytest.mark.parametrize('name', ['../other.safetensors', '/etc/x', '..'])
def test_an_index_cannot_leave_its_folder(tmp_path, name):
  index = tmp_path / 'model.safetensors.index.json'
  index.write_text(json.dumps({'weight_map': {'a': name}}))
  with pytest.raises(ConversionError, match='in its own folder'):
    safetensors_files.read_sharded(index)


@pytest.mark.parametrize('text', ['', '{"weight_map": 3}', '[]', '{}'])
def test_a_broken_index_is_refused(tmp_path, text):
  index = tmp_path / 'model.safetensors.index.json'
  index.write_text(text)
  with pytest.raises(ConversionError, match='Cannot read .*weight_map'):
    safetensors_files.read_sharded(index)


@pytest.mark.parametrize('kept', [-5, 50, 4, 0])
def test_a_truncated_file_is_refused(tmp_path, kept):
  path = tmp_path / 'x.safetensors'
  safetensors_files.write_file(path, _tensors())
  path.write_bytes(path.read_bytes()[:kept])
  with pytest.raises(ConversionError, match='Copy or download it again'):
    safetensors_files.read_file(path)


def test_a_missing_file_is_refused(tmp_path):
  with pytest.raises(ConversionError, match='Cannot read'):
    safetensors_files.read_file(tmp_path / 'none.safetensors')


def test_quantised_weights_are_refused(tmp_path):
  import struct

  header = json.dumps(
    {'a': {'dtype': 'F8_E4M3', 'shape': [2], 'data_offsets': [0, 2]}}
  ).encode()
  path = tmp_path / 'x.safetensors'
  path.write_bytes(struct.pack('<Q', len(header)) + header + b'\0\0')
  with pytest.raises(ConversionError, match='F8_E4M3.*Dequantise'):
    safetensors_files.read_file(path)
