"""Readers as what they add to their base: exact where they must be, refused
where they cannot be told so."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from btr_jax import config as config_lib
from btr_jax.interop import deltas
from btr_jax.models import model as model_lib
from btr_jax.models import reader_files
from btr_jax.tools import common
from btr_jax.tools import delta as delta_tool

LIMITS = config_lib.InputLimits(12, 16, 6, 2)


def _config(vocab_size, codec='residual'):
  return config_lib.ReaderConfig(
    vocab_size=vocab_size,
    embed_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=32,
    num_encoder_layers=3,
    num_decoder_layers=2,
    split_layer=2,
    codec=config_lib.CodecConfig(codec, 8 if codec == 'residual' else None),
  )


@pytest.fixture
def base(tiny_vocabulary, tmp_path) -> reader_files.LoadedReader:
  config = _config(tiny_vocabulary.vocab_size)
  model = model_lib.BtrModel(config, LIMITS)
  params = model.get_initial_variables(jax.random.key(0), model.input_shapes())[
    'params'
  ]
  path = tmp_path / 'base'
  reader_files.save_reader(path, config, LIMITS, params, tiny_vocabulary.path)
  return reader_files.load_reader(path)


def _learnt(base, rank=2, seed=0):
  """Parameters after training by adapters, with a codec fitted to them."""
  rng = np.random.default_rng(seed)
  flat = dict(model_lib.flat_params(base.params))
  for name in list(flat):
    if name.endswith('/kernel'):
      rows, columns = flat[name].shape
      thin = rng.normal(size=(rows, rank)), rng.normal(size=(rank, columns))
      flat[name] = flat[name] + jnp.asarray(0.05 * thin[0] @ thin[1])
  embedding = np.asarray(flat['token_embedder/embedding'])
  matrix = rng.normal(size=(16, 16)).astype(np.float32)
  flat |= {
    'codec/table': jnp.asarray(embedding @ matrix + 0.5),
    'codec/deviation': jnp.asarray(rng.uniform(0.5, 2, 16), jnp.float32),
    'codec/rotation': jnp.asarray(rng.normal(size=(16, 8)), jnp.float32),
    'codec/level': jnp.asarray(rng.uniform(0.5, 1, 8), jnp.float32),
  }
  flat['encoder/encoder_norm/scale'] = flat['encoder/encoder_norm/scale'] * 1.5
  return model_lib.nested_params(flat)


@pytest.fixture
def reader(base, tiny_vocabulary, tmp_path):
  path = tmp_path / 'reader'
  reader_files.save_reader(
    path,
    base.config,
    dataclasses.replace(LIMITS, num_passages=3),
    _learnt(base),
    tiny_vocabulary.path,
    provenance={'stage': 3},
  )
  return reader_files.load_reader(path)


def test_the_delta_makes_the_reader_again(base, reader, tmp_path):
  folder = tmp_path / 'delta'
  size = deltas.save(folder, base, reader, 'a base')
  assert size < reader.model_bytes
  delta = deltas.load(folder)
  assert delta.config == reader.config and delta.limits == reader.limits
  assert delta.provenance == {'stage': 3}
  found = model_lib.flat_params(deltas.applied(delta, base.params))
  wanted = model_lib.flat_params(reader.params)
  before = model_lib.flat_params(base.params)
  assert set(found) == set(wanted)
  for name, value in wanted.items():
    change = np.asarray(value - before.get(name, 0 * value))
    # Eight bits of each of two factors, or of a map.
    error = np.abs(np.asarray(found[name]) - np.asarray(value)).max()
    assert error <= 0.02 * max(np.abs(change).max(), 1e-6), name
  for name in ('codec/rotation', 'codec/level', 'encoder/encoder_norm/scale'):
    np.testing.assert_array_equal(found[name], wanted[name])
  np.testing.assert_array_equal(
    found['token_embedder/embedding'], before['token_embedder/embedding']
  )


def test_nothing_is_stored_of_what_did_not_change(base):
  codec = {
    name: value
    for name, value in model_lib.flat_params(_learnt(base)).items()
    if name.startswith('codec/')
  }
  params = model_lib.nested_params(
    {**model_lib.flat_params(base.params), **codec}
  )
  found = deltas.differences(base.params, params, max_rank=4)
  assert all(name.startswith('codec/') for name in found)


def test_another_base_is_refused(base, reader, tmp_path):
  deltas.save(tmp_path / 'delta', base, reader, 'that base')
  delta = deltas.load(tmp_path / 'delta')
  other = jax.tree.map(lambda leaf: leaf + 1e-3, base.params)
  with pytest.raises(deltas.DeltaError, match='one of that base, fingerprint'):
    deltas.applied(delta, other)


def test_changes_that_are_not_thin_are_refused(base):
  params = _learnt(base, rank=6)
  with pytest.raises(deltas.DeltaError, match='rank 6; expected at most 5'):
    deltas.differences(base.params, params, max_rank=5)


def test_a_table_that_is_no_map_is_refused(base):
  flat = dict(model_lib.flat_params(_learnt(base)))
  noise = np.random.default_rng(1).normal(size=flat['codec/table'].shape)
  flat['codec/table'] = flat['codec/table'] + jnp.asarray(noise)
  with pytest.raises(deltas.DeltaError, match='no linear map of the embedding'):
    deltas.differences(base.params, model_lib.nested_params(flat), max_rank=4)


def test_a_parameter_of_another_shape_is_refused(base):
  flat = dict(model_lib.flat_params(_learnt(base)))
  flat['decoder/logits_dense/kernel'] = jnp.zeros((16, 3))
  with pytest.raises(deltas.DeltaError, match='not in the base'):
    deltas.differences(base.params, model_lib.nested_params(flat), max_rank=4)


@pytest.mark.parametrize('what', ['missing', 'broken', 'cut', 'newer'])
def test_unreadable_deltas_are_named(base, reader, tmp_path, what):
  folder = tmp_path / 'delta'
  if what != 'missing':
    deltas.save(folder, base, reader, 'a base')
  if what == 'broken':
    (folder / deltas.DESCRIPTION_FILE).write_text('{')
  if what == 'cut':
    file = folder / deltas.WEIGHTS_FILE
    file.write_bytes(file.read_bytes()[:-7])
  if what == 'newer':
    file = folder / deltas.DESCRIPTION_FILE
    described = json.loads(file.read_text()) | {'format_version': 9}
    file.write_text(json.dumps(described))
  with pytest.raises(deltas.DeltaError, match=str(folder)):
    deltas.load(folder)


def test_the_command_packs_and_applies(
  base, reader, tmp_path, capsys, monkeypatch
):
  folder, output = tmp_path / 'delta', tmp_path / 'made'
  pack = ['pack', '--base', str(base.path), '--reader', str(reader.path)]
  pack += ['--base-name', 'a base', '--delta', str(folder)]
  assert common.run(delta_tool.main, pack) == 0
  packed = json.loads(capsys.readouterr().out)
  assert packed['bytes'] == (folder / deltas.WEIGHTS_FILE).stat().st_size
  assert common.run(delta_tool.main, pack) == 2  # It is there.
  assert 'there already' in capsys.readouterr().err

  # What cannot be packed leaves what is there, and nothing beside it.
  def fails(folder, *rest):
    folder.mkdir()
    raise deltas.DeltaError('The changes are not thin.')

  with monkeypatch.context() as patch:
    patch.setattr(deltas, 'save', fails)
    assert common.run(delta_tool.main, [*pack, '--force']) == 2
  assert (folder / deltas.WEIGHTS_FILE).stat().st_size == packed['bytes']
  assert not list(tmp_path.glob('.*'))
  assert common.run(delta_tool.main, [*pack, '--force']) == 0
  capsys.readouterr()
  apply = ['apply', '--base', str(base.path), '--delta', str(folder)]
  assert common.run(delta_tool.main, apply) == 2
  capsys.readouterr()
  assert common.run(delta_tool.main, [*apply, '--output', str(output)]) == 0
  made = reader_files.load_reader(output)
  assert made.provenance['base']['name'] == 'a base'
  over = [*apply, '--output', str(base.path), '--force']
  assert common.run(delta_tool.main, over) == 2
  assert 'would be written over' in capsys.readouterr().err
  reader_files.load_reader(base.path)
  assert made.limits.num_passages == 3
  assert pathlib.Path(made.vocabulary.path).is_file()
