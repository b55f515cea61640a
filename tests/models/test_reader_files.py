"""Reader directories: round trips, families, and what is refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from btr_jax.models import model as model_lib
from btr_jax.models import reader_files, trees


@pytest.fixture
def reader(tmp_path, tiny_family):
  """A copy that a test may damage."""
  import shutil

  return shutil.copytree(tiny_family / 'residual', tmp_path / 'reader')


def test_round_trip_is_exact(tmp_path, tiny_family):
  first = reader_files.load_reader(tiny_family / 'residual')
  reader_files.save_reader(
    tmp_path / 'copy',
    first.config,
    first.limits,
    first.params,
    tiny_family / 'residual' / 'vocabulary.model',
    provenance=first.provenance,
  )
  second = reader_files.load_reader(tmp_path / 'copy')
  assert first.config == second.config
  assert first.limits == second.limits
  assert first.fingerprint == second.fingerprint
  assert first.vocabulary.fingerprint == second.vocabulary.fingerprint
  for name, value in model_lib.flat_params(first.params).items():
    np.testing.assert_array_equal(
      value, model_lib.flat_params(second.params)[name]
    )


def test_bfloat16_halves_the_file(tmp_path, reader):
  loaded = reader_files.load_reader(reader)
  half = reader_files.save_reader(
    tmp_path / 'half',
    loaded.config,
    loaded.limits,
    loaded.params,
    reader / 'vocabulary.model',
    dtype='bfloat16',
  )
  sizes = [
    (folder / 'model.safetensors').stat().st_size for folder in (half, reader)
  ]
  assert sizes[0] < 0.6 * sizes[1]
  again = reader_files.load_reader(half)
  assert again.fingerprint != loaded.fingerprint
  for a, b in zip(
    jax.tree.leaves(again.params), jax.tree.leaves(loaded.params), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=2**-8)


@pytest.mark.parametrize(
  'mode, codec, folder',
  [
    ('joint', None, 'joint'),
    ('decomposed', None, 'decomposed'),
    ('binary', None, 'residual'),
    ('binary', 'calibrated', 'calibrated'),
    ('binary', 'float', 'decomposed'),
    (None, None, 'residual'),
  ],
)
def test_family_serves_each_mode(tiny_family, mode, codec, folder):
  loaded = reader_files.load_reader(tiny_family, mode, codec)
  assert loaded.path.name == folder
  assert loaded.model.mode == (mode or 'binary')
  if codec:
    assert loaded.config.codec.kind == codec


def test_float_codec_needs_no_training(tiny_family):
  """Any reader can cache bfloat16 states: DeFormer's baseline."""
  loaded = reader_files.load_reader(tiny_family, 'binary', 'float')
  tokens = np.ones((1, 8), np.int32)
  packed = loaded.model.encode_passages(loaded.params, tokens)
  assert packed['bits'].shape == (1, 8, 2 * loaded.config.embed_dim)


@pytest.mark.parametrize('mode', ['joint', 'decomposed'])
def test_a_binary_reader_answers_in_the_other_modes(tiny_family, mode):
  """Without its codec, which they do not have."""
  path = tiny_family / 'residual'
  found = reader_files.load_reader(path, mode=mode)
  assert found.model.mode == mode and 'codec' not in found.params
  whole = reader_files.load_reader(path)
  assert whole.model.mode == 'binary' and 'codec' in whole.params


def test_fewer_bits_are_the_first_ones(tiny_family):
  """A wider reader's first bits, in the cache and out of it."""
  whole = reader_files.load_reader(tiny_family, mode='binary')
  narrow = reader_files.load_reader(
    tiny_family, mode='binary', codec='residual:16'
  )
  assert narrow.config.codec.num_bits == 16
  assert narrow.model.codec_layout.bits_bytes == 2
  assert narrow.fingerprint != whole.fingerprint
  tokens = np.random.default_rng(0).integers(2, 100, (3, 20))
  bits = {
    reader: np.asarray(
      found.model.encode_passages(found.params, tokens)['bits']
    )
    for reader, found in (('whole', whole), ('narrow', narrow))
  }
  same = bits['whole'][..., :2] == bits['narrow']
  # Signs alone decide a bit, whatever the token's amplitude.
  assert same.all()


@pytest.mark.parametrize(
  ('codec', 'message'),
  [
    ('residual:many', 'expected a name, or a name and a number'),
    ('residual:4096', 'expected a residual codec with at least as many'),
    ('residual:12', 'positive multiple of 8'),
    ('calibrated:16', 'whose codec is calibrated'),
  ],
)
def test_bits_that_are_not_there_are_refused(tiny_family, codec, message):
  with pytest.raises(ValueError, match=message):
    reader_files.load_reader(tiny_family, mode='binary', codec=codec)


def test_refuses_what_is_no_reader(tmp_path):
  with pytest.raises(reader_files.ReaderFileError, match='is no reader'):
    reader_files.load_reader(tmp_path / 'nowhere')


def test_refuses_a_mode_without_bits(tiny_family):
  with pytest.raises(ValueError, match='has no codec.*stage 3'):
    reader_files.load_reader(tiny_family / 'joint', 'binary')
  with pytest.raises(ValueError, match="mode is 'bits'; expected one of joint"):
    reader_files.load_reader(tiny_family, 'bits')
  with pytest.raises(ValueError, match="trained with codec 'residual'"):
    reader_files.load_reader(tiny_family / 'residual', 'binary', 'calibrated')
  with pytest.raises(reader_files.ReaderFileError, match="reader for 'sign'"):
    reader_files.load_reader(tiny_family, 'binary', 'sign')


def test_refuses_truncated_weights(reader):
  weights = reader / 'model.safetensors'
  weights.write_bytes(weights.read_bytes()[:-100])
  with pytest.raises(
    reader_files.ReaderFileError, match='Cannot read the weights.*Copy'
  ):
    reader_files.load_reader(reader)


def test_refuses_weights_of_another_shape_with_a_diff(reader):
  path = reader / 'reader.json'
  description = json.loads(path.read_text())
  description['config']['mlp_dim'] += 8
  path.write_text(json.dumps(description))
  with pytest.raises(
    reader_files.ReaderFileError, match=r'mlp/wi_0/kernel: file \(32, 48\)'
  ):
    reader_files.load_reader(reader)


@pytest.mark.parametrize(
  'change, message',
  [
    ({'format_version': 99}, 'format_version 99'),
    ({'config': {'depth': 3}}, r"no field \['depth'\]"),
  ],
)
def test_refuses_another_format(reader, change, message):
  path = reader / 'reader.json'
  path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
  with pytest.raises(ValueError, match=message):
    reader_files.load_reader(reader)


def test_refuses_damaged_json(reader):
  (reader / 'reader.json').write_text('{"format_version": 1,')
  with pytest.raises(reader_files.ReaderFileError, match='Cannot read'):
    reader_files.load_reader(reader)


def test_nothing_half_written_when_the_disk_is_full(
  reader, tmp_path, monkeypatch
):
  loaded = reader_files.load_reader(reader)

  def full(descriptor):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr('os.fsync', full)
  with pytest.raises(OSError, match='No space left'):
    reader_files.save_reader(
      tmp_path / 'new',
      loaded.config,
      loaded.limits,
      loaded.params,
      reader / 'vocabulary.model',
    )
  assert not (tmp_path / 'new' / 'reader.json').exists()
  assert not (tmp_path / 'new' / 'model.safetensors').exists()
  assert not list((tmp_path / 'new').iterdir())
  with pytest.raises(OSError, match='No space left'):
    reader_files.save_reader(
      reader,
      loaded.config,
      loaded.limits,
      {},
      reader / 'vocabulary.model',
    )
  again = reader_files.load_reader(reader)  # It is what it was.
  assert again.whole_fingerprint() == loaded.whole_fingerprint()


def test_what_lies_above_the_split_tells_readers_apart(reader):
  loaded = reader_files.load_reader(reader)
  params = jax.tree.map(np.asarray, loaded.params)
  flat = trees.flat_params(params)
  flat['decoder/decoder_norm/scale'] = flat['decoder/decoder_norm/scale'] + 1
  params = trees.nested_params(flat)
  for limits, changed in (
    (loaded.limits, params),
    (dataclasses.replace(loaded.limits, passage_length=3), loaded.params),
  ):
    found = reader_files.load_reader(
      reader_files.save_reader(
        reader.parent / 'changed',
        loaded.config,
        limits,
        changed,
        reader / 'vocabulary.model',
      )
    )
    assert found.fingerprint == loaded.fingerprint  # Caches stay valid.
    assert found.whole_fingerprint() != loaded.whole_fingerprint()


def test_a_family_keeps_its_vocabulary_once(tmp_path, reader):
  loaded = reader_files.load_reader(reader)
  for member in ('one', 'two'):
    reader_files.save_reader(
      tmp_path / 'family' / member,
      loaded.config,
      loaded.limits,
      loaded.params,
      reader / 'vocabulary.model',
      shared_vocabulary=True,
    )
  found = sorted((tmp_path / 'family').rglob('*.model'))
  assert found == [tmp_path / 'family' / 'vocabulary.model']
  again = reader_files.load_reader(tmp_path / 'family' / 'two')
  assert again.vocabulary.fingerprint == loaded.vocabulary.fingerprint
