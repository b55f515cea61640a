"""Random checkpoints of every kind, small enough to make in milliseconds."""

import dataclasses
import json
import lzma
import struct

import ml_dtypes
import numpy as np
import pytest

from btr_jax.interop import architecture, names, safetensors_files
from btr_jax.tools import main as main_lib

DTYPES = {
  'float32': np.float32,
  'bfloat16': ml_dtypes.bfloat16,
  'float16': np.float16,
}


def _random_tensors(config, dtype='float32', seed=0, with_codec=False):
  generator = np.random.default_rng(seed)
  return {
    name: generator.normal(size=shape).astype(DTYPES[dtype])
    for name, shape in names.shapes(config, with_codec).items()
  }


@pytest.fixture(scope='session')
def random_tensors():
  """random_tensors(config, dtype, seed, with_codec) -> parameters, ours."""
  return _random_tensors


@pytest.fixture
def make_hugging_face(tmp_path, tiny_config, tiny_vocabulary_file):
  """make_hugging_face(dtype, shard_bytes, tied) -> folder."""

  def make(
    dtype='float32', max_bytes=10**9, name='theirs', change=None, **overrides
  ):
    config = dataclasses.replace(tiny_config, **overrides)
    folder = tmp_path / name
    folder.mkdir()
    tensors = names.to_torch(_random_tensors(config, dtype))
    if change is not None:
      change(tensors)
    safetensors_files.write_folder(folder, tensors, max_bytes)
    (folder / 'config.json').write_text(
      json.dumps(architecture.to_hugging_face(config, dtype))
    )
    (folder / 'spiece.model').write_bytes(tiny_vocabulary_file.read_bytes())
    return folder

  return make


@pytest.fixture
def convert(capsys):
  """Runs `btr convert`; returns exit code, the last line's JSON, errors."""

  def run(*argv):
    capsys.readouterr()
    code = main_lib.main(['convert', *map(str, argv)])
    captured = capsys.readouterr()
    last = (captured.out.splitlines() or [''])[-1]
    record = json.loads(last) if last.startswith('{') else None
    return code, record, captured.err

  return run


@pytest.fixture
def converted(convert):
  """Runs `btr convert`, which must succeed; returns its JSON."""

  def run(*argv):
    code, record, error = convert(*argv)
    assert code == 0, error
    return record

  return run


@pytest.fixture
def refused(convert):
  """Runs `btr convert`, which must refuse; returns the message."""

  def run(*argv):
    code, record, error = convert(*argv)
    assert code == 2 and record is None
    assert error.startswith('error: ')
    return error

  return run


@pytest.fixture(scope='session')
def assert_same_bits():
  """assert_same_bits(a, b): equal names, dtypes, shapes and bits."""

  def check(a, b):
    assert set(a) == set(b)
    for name in a:
      assert a[name].dtype == b[name].dtype, name
      assert a[name].shape == b[name].shape, name
      assert a[name].tobytes() == b[name].tobytes(), name

  return check


@pytest.fixture(scope='session')
def dequantised():
  """dequantised(path) -> the stored int8 weights in float32, by name."""

  def read(path):
    with lzma.open(path) as file:
      (length,) = struct.unpack('<Q', file.read(8))
      header = json.loads(file.read(length))
      content = file.read()
    header.pop('__metadata__')
    kinds = {'F32': np.float32, 'I8': np.int8, 'U8': np.uint8}
    stored = {
      name: np.frombuffer(
        content[slice(*entry['data_offsets'])], kinds[entry['dtype']]
      ).reshape(entry['shape'])
      for name, entry in header.items()
    }
    tensors = {}
    for name, value in stored.items():
      if name.endswith(('.scale', '.zero_point')):
        continue
      if f'{name}.scale' in stored:
        zero = stored.get(f'{name}.zero_point', np.zeros(1, np.uint8))
        value = stored[f'{name}.scale'] * (
          value.astype(np.float32) - zero.astype(np.float32)
        )
      tensors[name] = np.asarray(value, np.float32)
    return tensors

  return read
