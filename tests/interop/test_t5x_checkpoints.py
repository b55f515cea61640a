"""T5X's two layouts, written by hand as T5X writes them."""

import dataclasses

from flax import serialization, traverse_util
import ml_dtypes
import numpy as np
import pytest
import tensorstore

from btr_jax import config as config_lib
from btr_jax.interop import names, safetensors_files, t5x_checkpoints
from btr_jax.interop.checkpoint import ConversionError
from btr_jax.models import reader_files
from btr_jax.training import checkpoints as checkpoints_lib
from btr_jax.training import state as state_lib


def _write_legacy(folder, tensors, version=3, driver='gfile', step=1100):
  """`checkpoint` and zarr folders; vectors stay in the msgpack file."""
  folder.mkdir()
  target = {}
  for name, value in tensors.items():
    if value.ndim < 2:
      target[name] = value
      continue
    stored = value
    if version == 2 and value.dtype == ml_dtypes.bfloat16:
      stored = value.view(np.uint16)
    relative = f'target.{name.replace("/", ".")}/'
    metadata = {
      'shape': list(value.shape),
      'chunks': [max(1, value.shape[0] // 2), value.shape[1]],
      'compressor': {'id': 'gzip', 'level': 1},
    }
    tensorstore.open(
      {
        'driver': 'zarr',
        'dtype': stored.dtype.name,
        'kvstore': {'driver': 'file', 'path': f'{folder / relative}/'},
        'metadata': metadata,
      },
      create=True,
    ).result().write(np.array(stored)).result()
    kvstore = {'driver': driver, 'path': relative}
    if driver == 'gcs':
      kvstore['bucket'] = 't5-data'
    target[name] = {
      'driver': 'zarr',
      'dtype': stored.dtype.name,
      'kvstore': kvstore,
      'metadata': metadata,
    }
  contents = {
    'version': version,
    'optimizer': {
      'target': traverse_util.unflatten_dict(target, sep='/'),
      'state': {
        'step': np.int32(step),
        'param_states': {'token_embedder': {'v': np.zeros(3, np.float32)}},
      },
    },
  }
  (folder / 'checkpoint').write_bytes(serialization.msgpack_serialize(contents))
  return folder


@pytest.fixture
def legacy(tmp_path, tiny_config, random_tensors):
  """A folder with one checkpoint of the first layout."""
  folder = tmp_path / 'published'
  folder.mkdir()
  return _write_legacy(
    folder / 'checkpoint_1100', random_tensors(tiny_config, 'bfloat16')
  )


@pytest.mark.parametrize('driver', ['file', 'gfile', 'gcs'])
@pytest.mark.parametrize('version', [2, 3])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_the_first_layout(
  tmp_path,
  tiny_config,
  random_tensors,
  assert_same_bits,
  driver,
  version,
  dtype,
):
  tensors = random_tensors(tiny_config, dtype)
  folder = _write_legacy(tmp_path / 'checkpoint_7', tensors, version, driver, 7)
  for path in (folder, folder / 'checkpoint', tmp_path):
    found, step = t5x_checkpoints.read(path)
    assert step == 7
    assert_same_bits(found, tensors)


def test_one_file_without_folders(
  tmp_path, tiny_config, random_tensors, assert_same_bits
):
  tensors = random_tensors(tiny_config)
  path = tmp_path / 'test.checkpoint_0'
  target = traverse_util.unflatten_dict(tensors, sep='/')
  contents = {
    'version': 3,
    'optimizer': {'target': target, 'state': {'step': 0}},
  }
  path.write_bytes(serialization.msgpack_serialize(contents))
  assert_same_bits(t5x_checkpoints.read(path)[0], tensors)


def test_published_to_reader_to_t5x(
  tmp_path,
  legacy,
  converted,
  tiny_config,
  random_tensors,
  tiny_vocabulary_file,
  assert_same_bits,
):
  """First layout -> reader -> Orbax -> reader, every bit the same."""
  vocabulary = ('--vocabulary', tiny_vocabulary_file)
  record = converted(legacy.parent, tmp_path / 'reader', *vocabulary)
  assert record['source_format'] == 't5x' and record['step'] == 1100
  assert record['architecture_from'] == 'the shapes of the weights'
  assert record['dtypes'] == {'bfloat16': record['tensors']}
  converted(tmp_path / 'reader', tmp_path / 'orbax', '--to', 't5x')
  assert checkpoints_lib.steps_in(tmp_path / 'orbax') == [1100]
  found, step = t5x_checkpoints.read(tmp_path / 'orbax')
  assert step == 1100
  assert_same_bits(found, random_tensors(tiny_config, 'bfloat16'))
  config = ('--config', tmp_path / 'reader' / 'reader.json')
  record = converted(tmp_path / 'orbax', tmp_path / 'again', *config)
  for name in ('model.safetensors', 'vocabulary.model'):
    assert (tmp_path / 'again' / name).read_bytes() == (
      tmp_path / 'reader' / name
    ).read_bytes()


@pytest.mark.parametrize('kind', ['residual', 'calibrated'])
def test_a_codec_travels(
  tmp_path, tiny_family, converted, refused, tiny_vocabulary_file, kind
):
  source = tiny_family / kind
  converted(source, tmp_path / 'orbax', '--to', 't5x')
  flags = ('--vocabulary', tiny_vocabulary_file, '--split-layer', 2)
  if kind == 'calibrated':  # Its names fit two codecs.
    assert '--codec' in refused(tmp_path / 'orbax', tmp_path / 'back', *flags)
    flags += ('--codec', kind)
  converted(tmp_path / 'orbax', tmp_path / 'back', *flags)
  before, after = (
    reader_files.load_reader(path) for path in (source, tmp_path / 'back')
  )
  # T5X's checkpoint does not say how much was dropped out.
  assert after.config == dataclasses.replace(before.config, dropout_rate=0.1)
  assert (source / 'model.safetensors').stat().st_size == (
    tmp_path / 'back' / 'model.safetensors'
  ).stat().st_size


def test_bits_per_token_show_in_the_shapes(
  tmp_path, tiny_config, random_tensors, converted, tiny_vocabulary_file
):
  codec = config_lib.CodecConfig('residual', 16)
  config = dataclasses.replace(tiny_config, codec=codec)
  t5x_checkpoints.write(
    tmp_path / 'orbax', random_tensors(config, with_codec=True), 3
  )
  converted(
    tmp_path / 'orbax',
    tmp_path / 'reader',
    *('--vocabulary', tiny_vocabulary_file),
  )
  reader = reader_files.load_reader(tmp_path / 'reader')
  assert reader.config.codec == codec and reader.model.mode == 'binary'


def test_the_trainer_starts_from_it(tmp_path, tiny_config, random_tensors):
  """INITIAL_CHECKPOINT reads what is written."""
  tensors = random_tensors(tiny_config)
  t5x_checkpoints.write(tmp_path / 'orbax', tensors, 5)
  params, step = checkpoints_lib.load_params(tmp_path / 'orbax')
  assert step == 5
  assert set(traverse_util.flatten_dict(params, sep='/')) == set(tensors)


def test_of_a_training_run_the_parameters_are_read(
  tmp_path, tiny_config, random_tensors, assert_same_bits
):
  """Neither the optimizer's states nor stage 2's teacher."""
  tensors = random_tensors(tiny_config)
  params = traverse_util.unflatten_dict(tensors, sep='/')
  state = state_lib.TrainState(
    step=np.int32(8),
    params=params,
    opt_state={'mu': params},
    mutables={'teacher': params},
  )
  with checkpoints_lib.Checkpoints(tmp_path / 'stage2') as checkpoints:
    checkpoints.save(state, wait=True)
  found, step = t5x_checkpoints.read(tmp_path / 'stage2')
  assert step == 8
  assert_same_bits(found, tensors)


def test_steps(tmp_path, tiny_config, random_tensors):
  tensors = random_tensors(tiny_config)
  for step in (3, 20):
    _write_legacy(tmp_path / f'checkpoint_{step}', tensors, step=step)
  assert t5x_checkpoints.read(tmp_path)[1] == 20
  assert t5x_checkpoints.read(tmp_path, 3)[1] == 3
  with pytest.raises(ConversionError, match=r'steps \[3, 20\]; asked for 4'):
    t5x_checkpoints.read(tmp_path, 4)


def _first_matrix(folder):
  return sorted(p for p in folder.iterdir() if p.is_dir())[0]


def test_a_missing_chunk_is_no_zero(legacy):
  (chunk,) = _first_matrix(legacy).glob('1.*')
  chunk.unlink()
  with pytest.raises(ConversionError, match='cannot read .*Copy'):
    t5x_checkpoints.read(legacy)


def test_missing_metadata_is_named(legacy):
  (_first_matrix(legacy) / '.zarray').unlink()
  with pytest.raises(ConversionError, match='hidden files'):
    t5x_checkpoints.read(legacy)


def _edit(folder, change):
  path = folder / 'checkpoint'
  contents = serialization.msgpack_restore(path.read_bytes())
  change(contents)
  path.write_bytes(serialization.msgpack_serialize(contents))


@pytest.mark.parametrize('path', ['../elsewhere/', '/etc/', ''])
def test_a_checkpoint_cannot_reach_outside(legacy, path):
  def change(contents):
    leaf = contents['optimizer']['target']['token_embedder']['embedding']
    leaf['kvstore']['path'] = path

  _edit(legacy, change)
  with pytest.raises(ConversionError, match='inside the checkpoint'):
    t5x_checkpoints.read(legacy)


def test_other_versions_are_refused(legacy):
  _edit(legacy, lambda contents: contents.update(version=1))
  with pytest.raises(ConversionError, match='version 1; expected one of'):
    t5x_checkpoints.read(legacy)


@pytest.mark.parametrize(
  'content, message',
  [
    (b'model_checkpoint_path: "x"', 'TensorFlow checkpoint'),
    (b'', 'no checkpoint of T5X'),
    (b'\x81\xa1a', 'no checkpoint of T5X'),
    (serialization.msgpack_serialize({'version': 3}), 'no checkpoint of T5X'),
    (serialization.msgpack_serialize([1, 2]), 'no checkpoint of T5X'),
  ],
)
def test_other_files_are_refused(tmp_path, content, message):
  path = tmp_path / 'checkpoint'
  path.write_bytes(content)
  with pytest.raises(ConversionError, match=message):
    t5x_checkpoints.read(path)


def test_a_truncated_file_is_refused(legacy):
  path = legacy / 'checkpoint'
  path.write_bytes(path.read_bytes()[:-20])
  with pytest.raises(ConversionError, match='no checkpoint of T5X'):
    t5x_checkpoints.read(legacy)


def test_mixed_shapes_are_refused(legacy):
  def change(contents):
    leaf = contents['optimizer']['target']['token_embedder']['embedding']
    leaf['metadata']['shape'] = [5, 32]

  _edit(legacy, change)
  with pytest.raises(ConversionError, match='files of two checkpoints'):
    t5x_checkpoints.read(legacy)


def test_scanned_layers_are_refused(
  tmp_path, tiny_config, random_tensors, refused
):
  scanned = {
    name.replace('encoder/layers_', 'encoder/encoder/layers_'): value
    for name, value in random_tensors(tiny_config).items()
  }
  folder = _write_legacy(tmp_path / 'checkpoint_1', scanned)
  assert 'examples/scalable_t5' in refused(folder, tmp_path / 'reader')


def test_unknown_parameters_are_listed(
  tmp_path, tiny_config, random_tensors, refused
):
  tensors = random_tensors(tiny_config)
  tensors['encoder/layers_0/adapter/kernel'] = np.zeros((3, 4), np.float32)
  del tensors['decoder/layers_1/mlp/wo/kernel']
  message = refused(
    _write_legacy(tmp_path / 'checkpoint_1', tensors), tmp_path / 'reader'
  )
  assert 'encoder/layers_0/adapter/kernel: unknown, found (3, 4)' in message
  assert 'decoder/layers_1/mlp/wo/kernel: missing, expected (48, 32)' in message


def test_a_broken_orbax_checkpoint_is_refused(
  tmp_path, tiny_config, random_tensors, refused
):
  t5x_checkpoints.write(tmp_path / 'orbax', random_tensors(tiny_config), 1)
  state = tmp_path / 'orbax' / 'checkpoint_1' / 'state'
  (state / '_METADATA').unlink()
  assert 'Cannot read checkpoint' in refused(
    tmp_path / 'orbax', tmp_path / 'reader'
  )


def test_an_orbax_checkpoint_needs_its_name(
  tmp_path, tiny_config, random_tensors
):
  t5x_checkpoints.write(tmp_path / 'orbax', random_tensors(tiny_config), 1)
  renamed = (tmp_path / 'orbax' / 'checkpoint_1').rename(tmp_path / 'mine')
  with pytest.raises(ConversionError, match='Give it back its name'):
    t5x_checkpoints.read(renamed)


def test_same_tensors_as_huggingface(
  tmp_path, make_hugging_face, converted, assert_same_bits
):
  """Hugging Face -> T5X in one step."""
  theirs = make_hugging_face()
  converted(theirs, tmp_path / 'orbax', '--to', 't5x')
  weights = safetensors_files.read_file(theirs / 'model.safetensors')
  found = t5x_checkpoints.read(tmp_path / 'orbax')[0]
  assert_same_bits(names.to_torch(found), weights)
