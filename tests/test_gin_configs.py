"""Every gin file parses; every root builds its model by eval_shape."""

from __future__ import annotations

import pathlib
import re

import jax
import pytest

from btr_jax import train
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


@pytest.mark.parametrize('name', PARTS)
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
    assert re.search(r'must be set', text, re.IGNORECASE)
    assert 'Often set' in text
  assert max(map(len, header.splitlines())) <= 80


def test_no_part_names_t5x_as_import():
  for name in PARTS + ROOTS:
    assert not re.search(
      r'^(import|from) t5x', (FOLDER / name).read_text(), re.MULTILINE
    )


def test_folders_are_packages():
  # gin resolves an include through an installed package only with these.
  for path in {(FOLDER / name).parent for name in PARTS} | {FOLDER}:
    assert (path / '__init__.py').is_file()
