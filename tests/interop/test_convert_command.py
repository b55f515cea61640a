"""`btr convert` as a person meets it: table, line, destinations, refusals."""

import json
import os

import pytest

from btr_jax.data.folders import replacing
from btr_jax.interop import formats
from btr_jax.interop.checkpoint import ConversionError
from btr_jax.models import reader_files
from btr_jax.tools import main as main_lib


def test_a_table_and_a_line(tmp_path, make_hugging_face, capsys):
  theirs = make_hugging_face()
  assert main_lib.main(['convert', str(theirs), str(tmp_path / 'r')]) == 0
  out = capsys.readouterr().out
  record = json.loads(out.splitlines()[-1])
  for word in ('embedding', 'encoder', 'decoder', 'logits', 'all', 'float32'):
    assert word in out
  assert f'{record["tensors"]}' in out and f'{record["parameters"]:,}' in out
  assert '3 + 2 layers, 32 wide, 2 heads of 16' in out
  assert 'read back, every bit equal' in out
  assert record['destination_format'] == 'btr' and record['left_out'] == {}
  assert 'token codec' not in out


def test_nothing_but_the_destination_is_left(
  tmp_path, make_hugging_face, converted
):
  theirs = make_hugging_face()
  converted(theirs, tmp_path / 'deep' / 'reader')
  assert os.listdir(tmp_path / 'deep') == ['reader']
  mode = (tmp_path / 'deep' / 'reader').stat().st_mode
  assert mode & 0o777 == (tmp_path / 'deep').stat().st_mode & 0o777


def test_a_destination_is_replaced_by_force_only(
  tmp_path, make_hugging_face, converted, refused
):
  theirs = make_hugging_face()
  reader = tmp_path / 'reader'
  converted(theirs, reader)
  before = (reader / 'reader.json').stat().st_mtime_ns
  assert '--force' in refused(theirs, reader)
  assert (reader / 'reader.json').stat().st_mtime_ns == before
  (reader / 'left.txt').write_text('of the first time')
  converted(theirs, reader, '--force', '--num-passages', 3)
  assert reader_files.load_reader(reader).limits.num_passages == 3
  assert not (reader / 'left.txt').exists()


def test_force_removes_nothing_but_checkpoints(
  tmp_path, make_hugging_face, refused, converted
):
  theirs = make_hugging_face()
  mine = tmp_path / 'thesis'
  mine.mkdir()
  (mine / 'chapter.txt').write_text('years of work')
  assert 'is no checkpoint' in refused(theirs, mine, '--force')
  assert (mine / 'chapter.txt').exists()
  (mine / 'chapter.txt').unlink()
  converted(theirs, mine, '--force')  # an empty folder is nobody's work


@pytest.mark.parametrize('destination', ['theirs', '.', 'theirs/../theirs'])
def test_the_source_is_never_replaced(
  tmp_path, make_hugging_face, refused, destination
):
  theirs = make_hugging_face()
  message = refused(theirs, tmp_path / destination, '--force')
  assert 'holds, the source' in message
  assert (theirs / 'model.safetensors').exists()


def test_a_failure_leaves_the_old_one(
  tmp_path, make_hugging_face, converted, refused, monkeypatch
):
  theirs = make_hugging_face()
  reader = tmp_path / 'reader'
  converted(theirs, reader)
  before = (reader / 'reader.json').read_bytes()

  def full(descriptor):
    raise OSError(28, 'No space left on device')

  with monkeypatch.context() as patch:
    patch.setattr('os.fsync', full)
    flags = ('--force', '--num-passages', 3)
    assert 'No space left' in refused(theirs, reader, *flags)
  assert (reader / 'reader.json').read_bytes() == before
  assert sorted(os.listdir(tmp_path)) == ['reader', 'theirs']


def test_a_failing_rename_brings_the_old_one_back(tmp_path, monkeypatch):
  (tmp_path / 'x').write_text('old')
  rename = os.rename

  def failing(old, new):
    if os.fspath(new) == os.fspath(tmp_path / 'x') and 'replaced' not in str(
      old
    ):
      raise OSError(5, 'Input/output error')
    rename(old, new)

  monkeypatch.setattr('os.rename', failing)
  with pytest.raises(OSError), replacing(tmp_path / 'x') as aside:
    aside.write_text('new')
  assert (tmp_path / 'x').read_text() == 'old'
  assert os.listdir(tmp_path) == ['x']


def test_what_does_not_read_back_is_refused(
  tmp_path, make_hugging_face, refused, monkeypatch
):
  """A disk that turns one bit."""
  save = reader_files.save_description

  def turn(path, *args, **kwargs):
    save(path, *args, **kwargs)
    content = bytearray((path / 'model.safetensors').read_bytes())
    content[-1] ^= 1
    (path / 'model.safetensors').write_bytes(content)

  theirs = make_hugging_face()
  monkeypatch.setattr(reader_files, 'save_description', turn)
  assert 'does not read back' in refused(theirs, tmp_path / 'reader')
  assert not (tmp_path / 'reader').exists()


def test_a_codec_has_no_place_in_huggingface(
  tmp_path, tiny_family, refused, converted
):
  source = tiny_family / 'residual'
  for family in ('huggingface', 'atlas'):
    message = refused(source, tmp_path / 'x', '--to', family)
    assert 'no place for the token codec (residual)' in message
  flags = ('--to', 'huggingface', '--without-codec')
  record = converted(source, tmp_path / 'x', *flags)
  assert record['left_out'] == {'the token codec': 4}


def test_reader_to_reader_keeps_all_but_what_is_asked(
  tmp_path, tiny_family, converted
):
  record = converted(
    tiny_family / 'residual', tmp_path / 'half', '--dtype', 'bfloat16'
  )
  assert list(record['dtypes']) == ['bfloat16']
  reader = reader_files.load_reader(tmp_path / 'half')
  original = reader_files.load_reader(tiny_family / 'residual')
  assert reader.config == original.config
  assert reader.limits == original.limits
  assert reader.provenance == original.provenance


@pytest.mark.parametrize(
  'name, content, message',
  [
    ('nothing', None, 'There is no'),
    ('notes.txt', b'text', 'none of the known formats'),
    ('empty', 'folder', 'none of the known formats'),
  ],
)
def test_unknown_sources_are_refused(tmp_path, refused, name, content, message):
  path = tmp_path / name
  if content == 'folder':
    path.mkdir()
  elif content is not None:
    path.write_bytes(content)
  assert message in refused(path, tmp_path / 'reader')


def test_a_missing_source_is_refused_whatever_its_format(tmp_path, refused):
  for family in formats.FAMILIES:
    message = refused(tmp_path / 'no', tmp_path / 'x', '--from', family)
    assert 'There is no' in message


def test_a_family_asks_for_a_member(tmp_path, tiny_family, refused):
  message = refused(tiny_family, tmp_path / 'x', '--to', 't5x')
  assert 'family of readers' in message and 'calibrated' in message


def test_config_makes_no_sense_for_a_reader(tmp_path, tiny_family, refused):
  joint = tiny_family / 'joint'
  flags = ('--to', 't5x', '--config', joint / 'reader.json')
  assert '--config has no meaning' in refused(joint, tmp_path / 'x', *flags)


def test_a_damaged_reader_is_refused(tmp_path, make_hugging_face, converted):
  import shutil

  reader = tmp_path / 'reader'
  converted(make_hugging_face(), reader)
  description = json.loads((reader / 'reader.json').read_text())
  description['format_version'] = 9
  other = shutil.copytree(reader, tmp_path / 'other')
  (other / 'reader.json').write_text(json.dumps(description))
  from btr_jax.interop import reading

  with pytest.raises(ConversionError, match='format_version 9'):
    reading.read(other, 'btr')
