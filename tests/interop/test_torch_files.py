"""Files of torch.save: Hugging Face's .bin, Atlas's and FiD's checkpoints."""

import argparse
import json
import os
import sys

import numpy as np
import pytest

from btr_jax.interop import atlas, names, safetensors_files, torch_files
from btr_jax.interop.checkpoint import ConversionError

pytestmark = pytest.mark.torch


@pytest.fixture
def torch():
  return pytest.importorskip('torch')


@pytest.fixture
def make_atlas(torch, tmp_path, tiny_config, random_tensors):
  """make_atlas(dtype, prefix) -> path, as Atlas's save_atlas_model writes."""

  def make(dtype='float32', prefix='reader.', change=None):
    state = torch_files.to_torch(
      names.to_torch(random_tensors(tiny_config, dtype))
    )
    embedding = state['shared.weight']
    state['encoder.embed_tokens.weight'] = embedding
    state['decoder.embed_tokens.weight'] = embedding
    model = {f'{prefix}{name}': value for name, value in state.items()}
    model['retriever.contriever.encoder.weight'] = torch.zeros(3, 3)
    model['retriever.contriever.pooler.bias'] = torch.zeros(3)
    if change is not None:
      change(model)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))])
    path = tmp_path / 'model.pth.tar'
    torch.save(
      {
        'step': 17,
        'model': model,
        'optimizer': optimizer.state_dict(),
        'retr_optimizer': None,
        'scheduler': {'warmup': 5, 'last_epoch': 17},
        'retr_scheduler': None,
        'opt': argparse.Namespace(reader_model_type='t5', lr=1e-4, target=None),
      },
      path,
    )
    return path

  return make


@pytest.mark.parametrize('prefix', ['reader.', 'reader.module.'])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
def test_atlas_round_trip_is_exact(
  tmp_path,
  make_atlas,
  converted,
  tiny_vocabulary_file,
  tiny_config,
  random_tensors,
  assert_same_bits,
  dtype,
  prefix,
):
  source = make_atlas(dtype, prefix)
  record = converted(
    source, tmp_path / 'reader', '--vocabulary', tiny_vocabulary_file
  )
  assert record['source_format'] == 'atlas' and record['step'] == 17
  assert record['left_out'] == {
    'the retriever': 2,
    'copies of the embedding': 2,
  }
  found = safetensors_files.read_file(tmp_path / 'reader/model.safetensors')
  assert_same_bits(found, random_tensors(tiny_config, dtype))

  back = tmp_path / 'back.pth.tar'
  assert converted(tmp_path / 'reader', back, '--to', 'atlas')['step'] == 17
  before, after = atlas.read(source), atlas.read(back)
  assert_same_bits(after[0], before[0])
  assert after[2] == 17


def test_atlas_finds_what_it_loads(
  torch, tmp_path, tiny_family, converted, tiny_config
):
  """Every name of its strict load_state_dict, and the keys that it reads."""
  path = tmp_path / 'model.pth.tar'
  converted(tiny_family / 'joint', path, '--to', 'atlas')
  saved = torch_files.load(path)
  expected = {
    f'reader.{name}'
    for name in names.to_torch(
      {name: np.zeros(1) for name in names.shapes(tiny_config)}
    )
  }
  expected |= {
    f'reader.{stack}.embed_tokens.weight' for stack in ('encoder', 'decoder')
  }
  assert set(saved['model']) == expected
  assert {'step', 'opt', 'optimizer', 'scheduler'} <= set(saved)
  assert saved['opt'].query_side_retriever_training is False


def test_fid_wrappers_are_taken_off(
  torch, tmp_path, make_hugging_face, converted, assert_same_bits
):
  """FiD (2021) saves a folder with pytorch_model.bin of wrapped modules."""
  theirs = make_hugging_face(
    mlp_activations=('relu',), logits_via_embedding=True
  )
  plain = safetensors_files.read_file(theirs / 'model.safetensors')
  wrapped = {}
  for name, value in torch_files.to_torch(plain).items():
    if name.startswith('encoder.'):
      name = f'encoder.{name}'
      block, found, rest = name.partition('.layer.')
      name = f'{block}.module.layer.{rest}' if found else name
    wrapped[name] = value
  (theirs / 'model.safetensors').unlink()
  torch.save(wrapped, theirs / 'pytorch_model.bin')
  converted(theirs, tmp_path / 'reader')
  converted(tmp_path / 'reader', tmp_path / 'back', '--to', 'huggingface')
  assert_same_bits(
    safetensors_files.read_file(tmp_path / 'back' / 'model.safetensors'), plain
  )


def test_sharded_bin_files(
  torch, tmp_path, make_hugging_face, converted, refused, assert_same_bits
):
  theirs = make_hugging_face('bfloat16')
  plain = safetensors_files.read_file(theirs / 'model.safetensors')
  state = torch_files.to_torch(plain)
  (theirs / 'model.safetensors').unlink()
  weight_map = {}
  for number, group in enumerate((sorted(state)[::2], sorted(state)[1::2])):
    file = f'pytorch_model-{number}.bin'
    torch.save({name: state[name] for name in group}, theirs / file)
    weight_map.update(dict.fromkeys(group, file))
  index = theirs / 'pytorch_model.bin.index.json'
  index.write_text(json.dumps({'weight_map': weight_map}))
  converted(theirs, tmp_path / 'reader')
  converted(tmp_path / 'reader', tmp_path / 'back', '--to', 'huggingface')
  assert_same_bits(
    safetensors_files.read_file(tmp_path / 'back' / 'model.safetensors'), plain
  )
  (theirs / 'pytorch_model-1.bin').unlink()
  assert 'pytorch_model-1.bin' in refused(theirs, tmp_path / 'again')


class _Program:
  """Unpickling this would make a folder."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (str(self.path),)


def test_a_pickle_is_never_executed(torch, tmp_path, refused):
  made = tmp_path / 'executed'
  path = tmp_path / 'model.pth.tar'
  torch.save({'model': {}, 'opt': _Program(made)}, path)
  message = refused(path, tmp_path / 'reader')
  assert 'mkdir' in message and 'A pickle can run any program' in message
  assert not made.exists()


@pytest.mark.parametrize(
  'content', [b'', b'not a checkpoint', b'PK\x03\x04 broken', b'\x80\x02K\x01.']
)
def test_a_damaged_file_is_refused(torch, tmp_path, refused, content):
  path = tmp_path / 'model.pt'
  path.write_bytes(content)
  assert str(path) in refused(path, tmp_path / 'reader')


def test_without_torch_the_extra_is_named(tmp_path, refused, monkeypatch):
  monkeypatch.setitem(sys.modules, 'torch', None)
  path = tmp_path / 'model.pt'
  path.write_bytes(b'anything')
  assert 'btr_jax[convert]' in refused(path, tmp_path / 'reader')


def test_an_unsafe_torch_is_refused(torch, tmp_path, refused, monkeypatch):
  monkeypatch.setattr(torch, '__version__', '2.5.1+cpu')
  path = tmp_path / 'model.pt'
  path.write_bytes(b'anything')
  assert 'torch is 2.5.1+cpu' in refused(path, tmp_path / 'reader')


@pytest.mark.parametrize(
  'change, message',
  [
    (lambda model: model.update(other=1), r"it holds \['other'\]"),
    (
      lambda model: [
        model.pop(name) for name in list(model) if name.startswith('reader')
      ],
      'a retriever and no reader',
    ),
    (
      lambda model: model.update({'reader.shared.weight': 'text'}),
      "'shared.weight' is no dense tensor but str",
    ),
    (
      lambda model: model.update(
        {
          name.replace('reader.encoder.', 'reader.encoder.encoder.'): value
          for name, value in model.items()
          if name.startswith('reader.encoder.final')
        }
      ),
      'two models are mixed',
    ),
  ],
)
def test_what_atlas_does_not_write_is_refused(make_atlas, change, message):
  with pytest.raises(ConversionError, match=message):
    atlas.read(make_atlas(change=change))


def test_a_list_is_no_checkpoint(torch, tmp_path):
  path = tmp_path / 'x.pt'
  torch.save([torch.zeros(2)], path)
  with pytest.raises(ConversionError, match='holds list'):
    atlas.read(path)


def test_tied_or_not_must_be_said(tmp_path, make_atlas, refused):
  """What transformers 5 makes of T5 1.1: logits that equal the embedding."""

  def spoil(model):
    model['reader.lm_head.weight'] = model['reader.shared.weight'].clone()

  source = make_atlas(change=spoil)
  assert 'tie_word_embeddings' in refused(source, tmp_path / 'reader')


def test_every_torch_dtype_keeps_its_bits(torch):
  for dtype in (torch.float32, torch.float16, torch.bfloat16):
    tensor = torch.randn(4, 3).to(dtype).T
    array = torch_files.to_numpy({'a': tensor}, 'memory')['a']
    back = torch_files.to_torch({'a': array})['a']
    assert back.dtype == dtype and torch.equal(back, tensor)
