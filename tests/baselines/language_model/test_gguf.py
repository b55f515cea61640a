"""Files of llama.cpp's format, and what is wrong in them."""

import numpy as np
import pytest

from btr_jax.baselines.language_model import gguf
from btr_jax.interop.checkpoint import ConversionError


@pytest.mark.parametrize('version', [2, 3])
def test_metadata_and_tensors(tmp_path, gguf_bytes, version):
  metadata = {
    'name': 'tiny',
    'count': 7,
    'rate': 0.5,
    'flag': True,
    'words': ['a', 'bc'],
    'numbers': [1.5, -2.0],
  }
  first = np.arange(6, dtype=np.float32).reshape(2, 3)
  second = np.arange(32, dtype=np.float16)
  tensors = {
    'first': ((2, 3), 0, first.tobytes()),
    'second': ((32,), 1, second.tobytes()),
  }
  path = tmp_path / 'tiny.gguf'
  path.write_bytes(gguf_bytes(metadata, tensors, version))
  found = gguf.read(path)
  assert found.metadata == metadata
  assert {n: (t.shape, t.kind) for n, t in found.tensors.items()} == {
    'first': ((2, 3), 'F32'),
    'second': ((32,), 'F16'),
  }
  np.testing.assert_array_equal(found.tensors['first'].read(), first)
  np.testing.assert_array_equal(found.tensors['second'].read(), second)


@pytest.mark.parametrize(
  'change, message',
  [
    (lambda data: data[:-40], 'would end at byte'),
    (lambda data: data[:30], 'ends within its header'),
    (lambda data: b'GGML' + data[4:], "begins with b'GGML'"),
    (lambda data: data[:4] + b'\x01' + data[5:], 'version 1'),
  ],
)
def test_damaged_files_are_refused(tmp_path, gguf_bytes, change, message):
  values = np.ones(64, np.float32)
  data = gguf_bytes({'a': 1}, {'w': ((64,), 0, values.tobytes())})
  path = tmp_path / 'bad.gguf'
  path.write_bytes(change(data))
  with pytest.raises(ConversionError, match=message):
    gguf.read(path)


def test_unknown_storage_is_named(tmp_path, gguf_bytes):
  path = tmp_path / 'iq.gguf'
  path.write_bytes(gguf_bytes({}, {'w': ((256,), 16, bytes(66))}))
  with pytest.raises(ConversionError, match='w is stored as type 16'):
    gguf.read(path)


def test_no_file(tmp_path):
  with pytest.raises(ConversionError, match='Cannot read'):
    gguf.read(tmp_path / 'none.gguf')
