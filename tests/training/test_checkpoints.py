"""Round trips, T5X's layout, and every way a checkpoint can be bad."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from btr_jax.training import checkpoints as checkpoints_lib
from btr_jax.training import partitioning
from btr_jax.training import state as state_lib


def make_state(model, mesh, optimizer=None, step=3):
  optimizer = optimizer or optax.adamw(1e-3)
  abstract = state_lib.abstract_state(model, optimizer, mesh)
  params = state_lib.init_params(model, abstract, 0)
  mutables = {name: params for name in abstract.mutables}
  state = state_lib.create_state(abstract, optimizer, params, mutables)
  return state.replace(step=jnp.asarray(step, jnp.int32)), abstract


def assert_same(left, right):
  assert jax.tree.structure(left) == jax.tree.structure(right)
  jax.tree.map(np.testing.assert_array_equal, left, right)


@pytest.fixture
def saved(tmp_path, table_model, one_device_mesh):
  """A folder with one checkpoint, its state and its abstract state."""
  state, abstract = make_state(table_model, one_device_mesh)
  with checkpoints_lib.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(state)
  return tmp_path, state, abstract


def test_round_trip_with_teacher(tmp_path, make_table_model, one_device_mesh):
  state, abstract = make_state(make_table_model(teacher=True), one_device_mesh)
  with checkpoints_lib.Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.latest_step() is None
    checkpoints.save(state)
  with checkpoints_lib.Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.latest_step() == 3
    assert_same(checkpoints.restore(abstract), state)


# Orbax warns where no sharding is given; one device needs none.
@pytest.mark.filterwarnings('ignore:Sharding info:UserWarning')
def test_layout_is_t5x(saved):
  folder, state, _ = saved
  path = folder / 'checkpoint_3'
  assert (path / 'state').is_dir()
  tree = ocp.PyTreeCheckpointHandler().restore(path / 'state')
  assert set(tree) == {'target', 'state'}
  assert set(tree['state']) == {'step', 'param_states'}
  assert int(tree['state']['step']) == 3
  np.testing.assert_array_equal(
    tree['target']['head']['kernel'], state.params['head']['kernel']
  )


def test_restores_on_another_mesh(tmp_path, square_mesh, make_table_model):
  model = make_table_model()
  state, _ = make_state(model, square_mesh)
  with checkpoints_lib.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(state)
  mesh = partitioning.make_mesh((4, 1), jax.devices()[:4])
  abstract = state_lib.abstract_state(model, optax.adamw(1e-3), mesh)
  with checkpoints_lib.Checkpoints(tmp_path) as checkpoints:
    restored = checkpoints.restore(abstract)
  assert restored.params['head']['kernel'].sharding.mesh.shape['data'] == 4
  assert_same(
    jax.tree.map(np.asarray, restored), jax.tree.map(np.asarray, state)
  )


def test_keeps_the_newest(tmp_path, table_model, one_device_mesh):
  with checkpoints_lib.Checkpoints(tmp_path, keep=2) as checkpoints:
    for step in (1, 2, 3, 4):
      checkpoints.save(make_state(table_model, one_device_mesh, step=step)[0])
  assert checkpoints_lib.steps_in(tmp_path) == [3, 4]


def test_what_a_kill_left_is_cleared_away(
  tmp_path, table_model, one_device_mesh
):
  """Half a save, and half a removal of an old checkpoint."""
  state, abstract = make_state(table_model, one_device_mesh, step=1)
  with checkpoints_lib.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(state)
    checkpoints.save(make_state(table_model, one_device_mesh, step=2)[0])
  (tmp_path / 'checkpoint_1' / 'state' / '_METADATA').unlink()
  half = tmp_path / 'checkpoint_3.orbax-checkpoint-tmp-4711' / 'state'
  half.mkdir(parents=True)
  (half / 'd').write_bytes(b'half')
  assert checkpoints_lib.steps_in(tmp_path)[-1] == 2
  with checkpoints_lib.Checkpoints(tmp_path, keep=2) as checkpoints:
    assert int(checkpoints.restore(abstract).step) == 2
    checkpoints.save(make_state(table_model, one_device_mesh, step=3)[0])
  names = sorted(path.name for path in tmp_path.iterdir())
  assert names == ['checkpoint_2', 'checkpoint_3']
  with checkpoints_lib.Checkpoints(tmp_path) as checkpoints:
    assert int(checkpoints.restore(abstract).step) == 3


def test_an_error_does_not_lose_the_save(
  tmp_path, table_model, one_device_mesh
):
  state, _ = make_state(table_model, one_device_mesh)
  with pytest.raises(KeyError):
    with checkpoints_lib.Checkpoints(tmp_path) as checkpoints:
      checkpoints.save(state)
      raise KeyError('after the save began')
  assert checkpoints_lib.steps_in(tmp_path) == [3]


def test_saving_a_step_twice_keeps_the_first(saved):
  folder, state, _ = saved
  with checkpoints_lib.Checkpoints(folder) as checkpoints:
    assert checkpoints.save(state) == 3
  assert checkpoints_lib.steps_in(folder) == [3]


def test_load_params_reads_parameters_alone(saved):
  folder, state, _ = saved
  params, step = checkpoints_lib.load_params(folder)
  assert step == 3
  assert isinstance(params['head']['kernel'], np.ndarray)
  assert_same(params, jax.tree.map(np.asarray, state.params))


def test_no_checkpoint(tmp_path, table_model, one_device_mesh):
  _, abstract = make_state(table_model, one_device_mesh)
  with pytest.raises(checkpoints_lib.CheckpointError, match='No checkpoint'):
    checkpoints_lib.load_params(tmp_path)
  with checkpoints_lib.Checkpoints(tmp_path) as checkpoints:
    with pytest.raises(checkpoints_lib.CheckpointError, match='No checkpoint'):
      checkpoints.restore(abstract)


def test_keep_below_one(tmp_path):
  with pytest.raises(ValueError, match='KEEP is 0'):
    checkpoints_lib.Checkpoints(tmp_path, keep=0)


def restore_error(folder, abstract):
  with checkpoints_lib.Checkpoints(folder) as checkpoints:
    with pytest.raises(checkpoints_lib.CheckpointError) as error:
      checkpoints.restore(abstract)
  return str(error.value)


def test_other_shapes_are_named(saved, make_table_model, one_device_mesh):
  folder, _, _ = saved
  _, abstract = make_state(make_table_model(embed=4), one_device_mesh)
  message = restore_error(folder, abstract)
  assert (
    "target/head/kernel: found ((8, 16), 'float32'), "
    "expected ((4, 16), 'float32')"
  ) in message
  assert 'checkpoint_3' in message and 'MODEL_DIR' in message


def test_other_dtypes_are_named(saved):
  # Orbax alone would cast without a word.
  folder, _, abstract = saved
  abstract = abstract.replace(
    params=jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(
        leaf.shape, jnp.bfloat16, sharding=leaf.sharding
      ),
      abstract.params,
    )
  )
  message = restore_error(folder, abstract)
  assert "target/head/scale: found ((8,), 'float32')" in message
  assert "expected ((8,), 'bfloat16')" in message


def test_missing_and_surplus_names(saved, table_model, one_device_mesh):
  folder, _, _ = saved
  _, abstract = make_state(
    table_model, one_device_mesh, optax.sgd(0.1, momentum=0.9)
  )
  message = restore_error(folder, abstract)
  assert 'state/param_states/0/trace/head/kernel: missing' in message
  assert 'state/param_states/0/mu/head/kernel: not expected' in message


def damage_all(folder):
  """Empties every file that could hold arrays."""
  for path in folder.rglob('*'):
    if path.is_file() and 'METADATA' not in path.name.upper():
      path.write_bytes(b'')


@pytest.mark.parametrize('kind', ['arrays', 'metadata', 'state'])
def test_damage_names_path_and_fix(saved, kind):
  folder, _, abstract = saved
  path = folder / 'checkpoint_3'
  if kind == 'arrays':
    damage_all(path / 'state')
  elif kind == 'metadata':
    (path / 'state' / '_METADATA').write_text('{"half": ')
  else:
    (path / 'state').rename(folder / 'elsewhere')
  message = restore_error(folder, abstract)
  assert f'Cannot read checkpoint {path}' in message
  assert f'Remove {path}' in message
  with pytest.raises(checkpoints_lib.CheckpointError, match='Cannot read'):
    checkpoints_lib.load_params(folder)


def test_write_json_leaves_nothing_half_written(tmp_path):
  path = tmp_path / 'settings.json'
  checkpoints_lib.write_json(path, {'b': 1, 'a': [2]})
  assert json.loads(path.read_text()) == {'a': [2], 'b': 1}
  with pytest.raises(TypeError):
    checkpoints_lib.write_json(path, {'a': object()})
  assert [p.name for p in tmp_path.iterdir()] == ['settings.json']
  assert json.loads(path.read_text()) == {'a': [2], 'b': 1}
