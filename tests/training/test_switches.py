"""The switches of training by gin, all of them in one run."""

from __future__ import annotations

import json

import jax
import pytest

from btr_jax import train
from btr_jax.models import reader_files
from btr_jax.training import checkpoints as checkpoints_lib

pytestmark = pytest.mark.usefixtures('quick_compilation')


def losses(folder):
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line)['train/loss'] for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize('optimizer', ['adamw', 'adafactor', 'muon'])
def test_all_switches(spread_gin, tmp_path, optimizer):
  if len(jax.devices()) != 4:
    pytest.skip('needs four devices; tests/conftest.py makes them on CPU')

  def run(**macros):
    macros = {
      'MODEL_DIR': str(tmp_path),
      'DTYPE': 'bfloat16',
      'OPTIMIZER': optimizer,
      'MICROBATCHES': 2,
      'MESH': (2, 2),
      'BATCH_SIZE': 8,
      'LEARNING_RATE': 1e-2,
      'ACCEPT_CHANGES': True,
      **macros,
    }
    flags = [f'--gin.{name}={value!r}' for name, value in macros.items()]
    assert train.main([f'--gin_file={spread_gin}', *flags]) == 0

  run(TRAIN_STEPS=4, REMAT='full')
  # What a layer keeps is no part of a run: it goes on with another choice.
  run(TRAIN_STEPS=12, REMAT='none', ACCEPT_CHANGES=True)
  found = losses(tmp_path / 'stage1')
  assert len(found) == 12 and sum(found[-3:]) < sum(found[:3])
  names = checkpoints_lib._metadata(tmp_path / 'stage1', 12)
  assert any('v_row' in name for name in names) == (optimizer == 'adafactor')
  assert {leaf.dtype.name for leaf in names.values()} <= {'float32', 'int32'}
  reader = reader_files.load_reader(tmp_path / 'stage1' / 'reader')
  assert reader.config.dtype == 'bfloat16' and reader.config.remat == 'none'
  settings = json.loads((tmp_path / 'stage1' / 'settings.json').read_text())
  assert 'remat' not in settings['reader']
