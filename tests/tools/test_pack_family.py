"""`btr pack-family`: three stages into one folder."""

import json
import shutil

import numpy as np
import pytest

from btr_jax.models import reader_files, trees
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


def test_one_reader_may_serve_bits_and_floats(tmp_path, stages):
  shutil.rmtree(stages / 'stage2')
  output = tmp_path / 'family'
  code = tools_main.main(
    ['pack-family', '--stages', str(stages), '--output', str(output)]
    + ['--decomposed', 'residual']
  )
  assert code == 0 and not (output / 'decomposed').exists()
  bits = trees.flat_params(
    reader_files.load_reader(output, 'binary', 'residual').params
  )
  for mode, codec in (('decomposed', None), ('binary', 'float')):
    reader = reader_files.load_reader(output, mode, codec)
    assert reader.model.mode == mode
    floats = trees.flat_params(reader.params)
    assert set(bits) - set(floats) == {n for n in bits if 'codec/' in n}
    for name, value in floats.items():
      np.testing.assert_array_equal(value, bits[name])


def test_stages_that_were_not_trained_are_left_out(tmp_path, stages):
  shutil.rmtree(stages / 'stage3_calibrated')
  output = tmp_path / 'family'
  code = tools_main.main(
    ['pack-family', '--stages', str(stages), '--output', str(output)]
  )
  assert code == 0 and not (output / 'calibrated').exists()
  assert reader_files.load_reader(output, 'binary').model.mode == 'binary'
  with pytest.raises(reader_files.ReaderFileError, match='calibrated'):
    reader_files.load_reader(output, 'binary', 'calibrated')


@pytest.mark.parametrize(
  'options', [[], ['--default-codec', 'calibrated', '--decomposed', 'residual']]
)
def test_a_missing_reader_that_is_needed_is_named(
  tmp_path, stages, capsys, options
):
  shutil.rmtree(stages / 'stage3_residual')
  code = tools_main.main(
    ['pack-family', '--stages', str(stages), '--output', str(tmp_path / 'x')]
    + options
  )
  assert code == 2
  assert 'stage3_residual/reader is no reader' in capsys.readouterr().err
  assert not (tmp_path / 'x').exists()


def test_members_of_an_older_family_go(tmp_path, stages):
  output = tmp_path / 'family'
  argv = ['pack-family', '--stages', str(stages), '--output', str(output)]
  assert tools_main.main(argv) == 0 and (output / 'decomposed').exists()
  assert tools_main.main([*argv, '--decomposed', 'residual']) == 0
  assert not (output / 'decomposed').exists()
  reader_files.load_reader(output, 'decomposed')
