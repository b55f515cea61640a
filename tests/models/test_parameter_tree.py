"""Names, shapes and logical axes of all parameters, against golden files.

A change here breaks every checkpoint, and T5X's. If it is meant, write the
new files with `BTR_WRITE_GOLDEN=1 pytest tests/models/test_parameter_tree.py`
and say so in the changelog.
"""

import json
import os

from flax import traverse_util
import jax
import pytest

from btr_jax import axes


def _tree(model):
  variables = jax.eval_shape(
    lambda: model.get_initial_variables(jax.random.key(0), model.input_shapes())
  )
  shapes = traverse_util.flatten_dict(variables['params'], sep='/')
  names = traverse_util.flatten_dict(variables['params_axes'], sep='/')
  return {
    name: {
      'shape': list(value.shape),
      'dtype': str(value.dtype),
      'axes': list(names[f'{name}_axes'].names),
    }
    for name, value in sorted(shapes.items())
  }


@pytest.mark.parametrize(
  'name, stage, codec, tied',
  [
    ('joint', 1, 'residual', False),
    ('joint_tied', 1, 'residual', True),
    ('binary_calibrated', 3, 'calibrated', False),
    ('binary_residual', 3, 'residual', False),
    ('binary_sign', 3, 'sign', False),
  ],
)
def test_parameter_tree_is_golden(
  repository, small_model, name, stage, codec, tied
):
  tree = _tree(small_model(stage, codec, logits_via_embedding=tied))
  path = repository / 'tests' / 'golden' / f'parameters_{name}.json'
  if os.environ.get('BTR_WRITE_GOLDEN'):
    path.write_text(json.dumps(tree, indent=1) + '\n')
  assert tree == json.loads(path.read_text())


@pytest.mark.parametrize('codec', ['calibrated', 'residual'])
def test_every_axis_has_a_rule(small_model, codec):
  """A logical axis without a rule would silently be replicated."""
  known = {name for name, _ in axes.LOGICAL_AXIS_RULES}
  for name, parameter in _tree(small_model(3, codec)).items():
    assert len(parameter['axes']) == len(parameter['shape']), name
    assert set(parameter['axes']) <= known, name


def test_teacher_has_the_structure_of_the_parameters(small_model):
  model = small_model(2)
  variables = model.get_initial_variables(
    jax.random.key(0), model.input_shapes()
  )
  structure = jax.tree.structure
  assert structure(variables['teacher']) == structure(variables['params'])
  assert structure(variables['teacher_axes']) == structure(
    variables['params_axes']
  )
