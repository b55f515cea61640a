"""Who may import whom, and what is installed."""

from __future__ import annotations

import ast
import configparser
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Folder at the top -> its name when installed.
MAPPED = {
  'btr_jax': 'btr_jax',
  'tasks': 'btr_jax.tasks',
  'tools': 'btr_jax.tools',
  'gin_configs': 'btr_jax.gin_configs',
}
TENSORFLOW = {
  'seqio',
  't5x',
  'tensorflow',
  'tensorflow_datasets',
  'tensorflow_text',
  'tf_keras',
}
MAY_USE_TENSORFLOW = (
  'btr_jax.data.feature_converters',
  'btr_jax.data.pipeline',
  'btr_jax.tasks',
)
T5X_ADAPTER = ('btr_jax.interop.t5x', 'btr_jax.interop.t5x_training')
KNOW_GIN = ('btr_jax.train', 'btr_jax.gin_configs.programs')
# Top to bottom; a module may import from its own row and those below. The
# longest prefix that fits a module decides its row.
ROWS = (
  ('btr_jax.tools', 'btr_jax.train', 'btr_jax.gin_configs'),
  ('btr_jax.baselines',),
  ('btr_jax.interop',),
  # It is trained by the loop that trains BTR.
  ('btr_jax.training', 'btr_jax.baselines.span_reader'),
  (
    'btr_jax.serving',
    'btr_jax.evaluation',
    'btr_jax.cache.builder',
    'btr_jax.tasks',
  ),
  (
    'btr_jax.models',
    'btr_jax.losses',
    'btr_jax.data',
    'btr_jax.retrieval',
    'btr_jax.cache',
    # File formats, which know nothing of readers.
    'btr_jax.interop.checkpoint',
    'btr_jax.interop.safetensors_files',
  ),
  ('btr_jax.axes', 'btr_jax.config', 'btr_jax'),
)


def modules() -> dict[str, pathlib.Path]:
  """Every module of the package by its installed name."""
  found = {}
  for folder, name in MAPPED.items():
    for path in sorted((ROOT / folder).rglob('*.py')):
      parts = path.relative_to(ROOT / folder).with_suffix('').parts
      parts = parts[:-1] if parts[-1] == '__init__' else parts
      found['.'.join((name, *parts))] = path
  return found


MODULES = modules()


def imports_of(path: pathlib.Path, eager_only: bool = False) -> set[str]:
  """Dotted names that a file imports; `from a import b` gives a.b and a.

  With eager_only, imports in functions and under TYPE_CHECKING are left out.
  """
  found: set[str] = set()

  def visit(node: ast.AST) -> None:
    if eager_only and isinstance(node, (ast.FunctionDef, ast.Lambda)):
      return
    if (
      isinstance(node, ast.If)
      and isinstance(node.test, ast.Name)
      and node.test.id == 'TYPE_CHECKING'
    ):
      return
    if isinstance(node, ast.Import):
      found.update(alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{path}: relative import'
      found.add(node.module)
      found.update(f'{node.module}.{alias.name}' for alias in node.names)
    for child in ast.iter_child_nodes(node):
      visit(child)

  visit(ast.parse(path.read_text(encoding='utf-8')))
  return found


def row_of(module: str) -> int | None:
  best, best_length = None, -1
  for number, row in enumerate(ROWS):
    for prefix in row:
      fits = module == prefix or module.startswith(prefix + '.')
      if fits and len(prefix) > best_length:
        best, best_length = number, len(prefix)
  return best


@pytest.mark.parametrize('module', MODULES)
def test_imports_go_down(module):
  own = row_of(module)
  for name in imports_of(MODULES[module]):
    if name in MODULES and name != 'btr_jax':
      assert row_of(name) >= own, f'{module} imports {name}, which is above it'


@pytest.mark.parametrize('module', MODULES)
def test_tensorflow_stays_where_it_belongs(module):
  if module.startswith(MAY_USE_TENSORFLOW):
    return
  roots = {name.partition('.')[0] for name in imports_of(MODULES[module])}
  if module in T5X_ADAPTER:  # It names T5X once T5X itself calls it.
    eager = imports_of(MODULES[module], eager_only=True)
    assert 't5x' not in {name.partition('.')[0] for name in eager}
    roots -= {'t5x'}
  assert not roots & TENSORFLOW


@pytest.mark.parametrize('module', MODULES)
def test_only_the_entry_knows_gin(module):
  roots = {name.partition('.')[0] for name in imports_of(MODULES[module])}
  assert module in KNOW_GIN or 'gin' not in roots


@pytest.mark.parametrize('module', MODULES)
def test_torch_stays_where_it_belongs(module):
  """In two modules, and there only once torch is asked for."""
  roots = {name.partition('.')[0] for name in imports_of(MODULES[module])}
  baseline = module == 'btr_jax.interop.torch_reader'
  assert baseline or 'transformers' not in roots
  assert (
    baseline or module == 'btr_jax.interop.torch_files' or 'torch' not in roots
  )
  eager = imports_of(MODULES[module], eager_only=True)
  assert 'torch' not in {name.partition('.')[0] for name in eager}


@pytest.mark.parametrize(
  'module',
  [
    name
    for name in MODULES
    if name.startswith('btr_jax.cache') and name != 'btr_jax.cache.builder'
  ],
)
def test_the_cache_knows_numpy_and_tensorstore_only(module):
  for name in imports_of(MODULES[module]):
    root = name.partition('.')[0]
    allowed = root in sys.stdlib_module_names or root in (
      'numpy',
      'tensorstore',
      'jaxtyping',
    )
    assert allowed or name.startswith(('btr_jax.cache', 'btr_jax')), name
    if root == 'btr_jax' and name in MODULES:
      assert name == 'btr_jax' or name.startswith('btr_jax.cache'), name


def core_modules() -> list[str]:
  """Modules that must work without TensorFlow and the extra `train`."""
  return [
    name
    for name in MODULES
    if not name.startswith(
      (*MAY_USE_TENSORFLOW, 'btr_jax.train', 'btr_jax.training')
    )
  ]


def test_core_imports_without_tensorflow():
  """In a process where TensorFlow cannot be imported."""
  program = f"""
import importlib, sys
for name in {sorted(TENSORFLOW)!r}:
  sys.modules[name] = None  # import raises ImportError
for name in {core_modules()!r}:
  importlib.import_module(name)
print('imported', len(sys.modules))
"""
  result = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True, timeout=120
  )
  assert result.returncode == 0, result.stderr
  assert result.stdout.startswith('imported')


def test_setup_lists_every_package():
  setup = configparser.ConfigParser()
  setup.read(ROOT / 'setup.cfg')
  listed = setup['options']['packages'].split()
  assert listed == sorted(listed)
  found = {
    name if path.name == '__init__.py' else name.rpartition('.')[0]
    for name, path in MODULES.items()
  } - {''}
  assert set(listed) == found


def test_every_package_has_an_init():
  for name, path in MODULES.items():
    assert (path.parent / '__init__.py').exists(), name


def test_no_path_of_a_machine_in_the_files():
  for name, path in MODULES.items():
    text = path.read_text(encoding='utf-8')
    for place in ('../shared', '/home/'):
      assert place not in text, f'{name} holds {place}'
