"""Every gin file parses; every root builds its model by eval_shape."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import jax
import pytest

from btr_jax import train
from btr_jax.data.benchmarks import table
from btr_jax.models import model as model_lib
from btr_jax.training import optimizers, partitioning
from btr_jax.training import state as state_lib

FOLDER = pathlib.Path(__file__).resolve().parents[1] / 'gin_configs'
ROOTS = sorted(path.name for path in FOLDER.glob('*.gin'))
PARTS = sorted(
  str(path.relative_to(FOLDER))
  for path in FOLDER.rglob('*.gin')
  if path.parent != FOLDER
)
# Published sizes, in millions of parameters (T5 1.1: 77, 248, 783).
MILLIONS = {
  'btr_tiny.gin': (2.0, 5.0),
  'btr_small.gin': (76.0, 78.0),
  'btr_base.gin': (247.0, 249.0),
  'btr_large.gin': (782.0, 784.0),
}


# What T5X's programs read; only they can parse it.
T5X_PARTS = [f'runs/t5x/{name}.gin' for name in ('train', 'eval', 'infer')]


def parse(name, *bindings):
  train.parse_config(
    [f'gin_configs/{name}'], ["MODEL_DIR = 'runs/test'", *bindings]
  )
  return train.build_arguments()


def test_every_root_is_listed():
  assert set(ROOTS) == set(MILLIONS)


@pytest.mark.parametrize('stage', [1, 2, 3])
@pytest.mark.parametrize('name', ROOTS)
def test_root_builds(name, stage):
  arguments = parse(name)
  model = model_lib.BtrModel(
    arguments['reader'],
    arguments['limits'],
    stage=stage,
    distill_tokens=arguments['recipe'].distill_tokens,
  )
  values = arguments['recipe'].settings(stage)
  schedule = optimizers.make_schedule(
    arguments['optimizer'],
    values['learning_rate'],
    values['warmup_steps'],
    values['train_steps'],
  )
  mesh = partitioning.make_mesh((1, 1), jax.devices()[:1])
  abstract = state_lib.abstract_state(
    model, optimizers.make_optimizer(arguments['optimizer'], schedule), mesh
  )
  assert set(abstract.mutables) == ({'teacher'} if stage == 2 else set())
  if stage == 1:
    count = sum(leaf.size for leaf in jax.tree.leaves(abstract.params)) / 1e6
    low, high = MILLIONS[name]
    assert low < count < high


@pytest.mark.parametrize('name', ROOTS)
def test_both_codecs_and_other_switches(name):
  arguments = parse(
    name,
    "CODEC = 'calibrated'",
    "OPTIMIZER = 'adafactor'",
    'TRAIN_STEPS = (30, 20, 10)',
    'NUM_PASSAGES = 40',
  )
  assert arguments['reader'].codec.kind == 'calibrated'
  assert arguments['optimizer'].name == 'adafactor'
  assert arguments['recipe'].settings(2)['train_steps'] == 20
  assert arguments['limits'].num_passages == 40


@pytest.mark.parametrize('task', sorted(table.BENCHMARKS))
def test_benchmark_after_a_root(task):
  """The second --gin_file changes the data, its lengths and the recipe."""
  train.parse_config(
    ['gin_configs/btr_base.gin', f'gin_configs/data/{task}.gin'],
    [
      "MODEL_DIR = 'runs/test'",
      "QUESTIONS = {'train': 'train.jsonl'}",
      "VOCABULARY = 'spiece.model'",
    ],
  )
  arguments = train.build_arguments()
  known = table.benchmark(task)
  assert arguments['limits'] == known.limits
  data = arguments['data']
  assert (data.task, data.task_module) == (task, f'btr_jax.tasks.{task}')
  assert data.files.questions == {'train': 'train.jsonl'}
  assert data.files.num_passages == known.limits.num_passages
  assert arguments['recipe'].settings(1)['warmup_steps'] <= 200


def test_mixture_after_a_root():
  train.parse_config(
    ['gin_configs/btr_base.gin', 'gin_configs/data/open_qa.gin'],
    ["MODEL_DIR = 'x'", "TRIVIAQA_QUESTIONS = {'train': 't.jsonl'}"],
  )
  data = train.build_arguments('data')['data']
  assert [one.task for one in data.files] == ['nq', 'triviaqa', 'webquestions']
  assert data.files[1].questions == {'train': 't.jsonl'}


@pytest.mark.parametrize(
  'name', [name for name in PARTS if name not in T5X_PARTS]
)
def test_part_parses_alone(name):
  import gin

  gin.clear_config()
  gin.add_config_file_search_path(str(FOLDER.parent))
  gin.parse_config_file(f'gin_configs/{name}')
  assert gin.config_str().strip()
  gin.clear_config()


@pytest.mark.parametrize('name', ROOTS + PARTS)
def test_header_says_what_to_set(name):
  text = (FOLDER / name).read_text()
  header = text.split('\n\n')[0]
  assert text.startswith('# ')
  if name in ROOTS:
    assert 'python -m btr_jax.train' in text
    assert 'python -m t5x.train' in text
    assert re.search(r'must be set', text, re.IGNORECASE)
    assert 'Often set' in text
  assert max(map(len, header.splitlines())) <= 80


def test_only_t5x_runs_import_t5x():
  for name in set(PARTS + ROOTS) - set(T5X_PARTS):
    assert not re.search(
      r'^(import|from) t5x', (FOLDER / name).read_text(), re.MULTILINE
    )


def test_folders_are_packages():
  # gin resolves an include through an installed package only with these.
  for path in {(FOLDER / name).parent for name in PARTS} | {FOLDER}:
    assert (path / '__init__.py').is_file()


# Parses as `python -m t5x.<program>` would, and builds what is bound, the
# training state by eval_shape.
_PARSE = """
import importlib, sys
import gin, jax
name, cases = sys.argv[1], eval(sys.argv[2])
program = sys.modules['__main__'] = importlib.import_module(f't5x.{name}')
entry = program.evaluate if name == 'eval' else getattr(program, name)
if name == 'train':
  # Stages 2 and 3 want a checkpoint to start from; shapes do without one.
  from btr_jax.training import start
  start.previous_params = lambda *_: (None, None)
for root, stage in cases:
  gin.clear_config()
  gin.parse_config_files_and_bindings(
    [f'gin_configs/{root}'],
    [
      f'STAGE = {stage}',
      "MODEL_DIR = '/somewhere'",
      "TASK = 't5x_toy'",
      "TASK_MODULE = 't5x_toy_task'",
    ] + (["CHECKPOINT_PATH = '/somewhere'"] if name != 'train' else []),
  )
  bound = gin.get_bindings(gin.get_configurable(entry))
  model = bound['model']
  if name != 'train':
    assert model.stage == 1 and model.optimizer_def is None
    print(root, stage, model.mode)
    continue
  initializer = bound['train_state_initializer_cls'](
    optimizer_def=model.optimizer_def,
    init_fn=model.get_initial_variables,
    input_shapes=model.input_shapes(2),
    partitioner=bound['partitioner'],
  )
  state, axes = (
    initializer.global_train_state_shape, initializer.train_state_axes
  )
  assert set(state.flax_mutables) == ({'teacher'} if stage == 2 else set())
  sizes = jax.tree.map(lambda leaf: leaf.size, state.params)
  spread = jax.tree.map(
    lambda size, spec: size if 'model' in spec else 0, sizes, axes.params
  )
  total = sum(jax.tree.leaves(sizes))
  assert sum(jax.tree.leaves(spread)) > 0.97 * total, (root, stage)
  # Adam's moments are spread as the parameters are.
  moments = jax.tree.leaves(
    axes.param_states, is_leaf=lambda x: isinstance(x, jax.P)
  )
  assert sum('model' in spec for spec in moments) == 2 * sum(
    size > 0 for size in jax.tree.leaves(spread)
  )
  print(root, stage, model.mode, total)
"""


@pytest.mark.t5x
@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec('t5x') is None, reason='T5X is not on PyPI'
)
@pytest.mark.parametrize('program', ['train', 'eval', 'infer'])
def test_roots_build_with_t5x(program, tmp_path, tiny_vocabulary_file):
  (tmp_path / 'vocabulary.model').write_bytes(tiny_vocabulary_file.read_bytes())
  cases = [(root, stage) for root in ROOTS for stage in (1, 2, 3)]
  # In front of the rest, for T5X itself may stand on PYTHONPATH.
  path = [
    str(FOLDER.parent / 'tests' / 'interop'),
    os.environ.get('PYTHONPATH'),
  ]
  result = subprocess.run(
    [sys.executable, '-W', 'ignore', '-c', _PARSE, program, repr(cases)],
    cwd=FOLDER.parent,
    env={
      **os.environ,
      'JAX_PLATFORMS': 'cpu',
      'PYTHONPATH': os.pathsep.join(filter(None, path)),
      'T5X_TOY_FOLDER': str(tmp_path),
    },
    capture_output=True,
    text=True,
    timeout=280,
  )
  assert result.returncode == 0, result.stderr[-5000:]
  assert len(result.stdout.splitlines()) == len(cases)
