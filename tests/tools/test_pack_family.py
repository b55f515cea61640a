"""`btr pack-family`: three stages into one folder."""

import json
import shutil

import pytest

from btr_jax.models import reader_files
from btr_jax.tools import main as tools_main
from btr_jax.tools import pack_family


@pytest.fixture
def stages(tmp_path, tiny_family):
  """What training leaves behind: a reader in each stage's folder."""
  for member, stage in pack_family.MEMBERS.items():
    shutil.copytree(
      tiny_family / member, tmp_path / 'stages' / stage / 'reader'
    )
  return tmp_path / 'stages'


def test_packs_all_modes(tmp_path, stages, capsys):
  output = tmp_path / 'family'
  code = tools_main.main(
    ['pack-family', '--stages', str(stages), '--output', str(output)]
    + ['--num-passages', '7']
  )
  assert code == 0
  record = json.loads(capsys.readouterr().out.splitlines()[-1])
  files = [f for f in output.rglob('*') if f.is_file()]
  assert record['bytes'] == sum(f.stat().st_size for f in files)
  assert len([f for f in files if f.suffix == '.model']) == 1
  for mode, codec in [
    ('joint', None),
    ('decomposed', None),
    ('binary', 'calibrated'),
    ('binary', 'residual'),
  ]:
    reader = reader_files.load_reader(output, mode, codec)
    assert reader.model.mode == mode
    assert reader.limits.num_passages == 7


def test_a_missing_stage_is_named(tmp_path, stages, capsys):
  shutil.rmtree(stages / 'stage2')
  code = tools_main.main(
    ['pack-family', '--stages', str(stages), '--output', str(tmp_path / 'x')]
  )
  assert code == 2
  assert 'stage2/reader is no reader' in capsys.readouterr().err
  assert not (tmp_path / 'x' / 'family.json').exists()
