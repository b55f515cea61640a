"""Atlas's and Contriever's encoders out of their checkpoints."""

import json

import numpy as np
import pytest
import safetensors.numpy

from btr_jax.interop import retrievers
from btr_jax.interop.checkpoint import ConversionError
from btr_jax.retrieval import encoder
from btr_jax.tools import main as main_lib


@pytest.fixture
def tensors(tiny_encoder_folder):
  return safetensors.numpy.load_file(tiny_encoder_folder / 'model.safetensors')


def convert(source, target, folder, *more):
  return main_lib.main(
    ['convert', '--part', 'retriever', str(source), str(target), *more]
    + ['--config', str(folder / 'config.json')]
    + ['--vocabulary', str(folder / 'vocab.txt')]
  )


def test_a_safetensors_file_with_both_sides(
  tensors, tiny_encoder_folder, tmp_path, capsys
):
  pytest.importorskip('tokenizers')
  state = {}
  for name, value in tensors.items():
    state[f'retriever.query_contriever.{name}'] = value + 1
    state[f'retriever.passage_contriever.{name}'] = value
  source = tmp_path / 'atlas.safetensors'
  safetensors.numpy.save_file(state, source)
  assert convert(source, tmp_path / 'out', tiny_encoder_folder) == 0
  record = json.loads(capsys.readouterr().out.splitlines()[-1])
  assert sorted(record['encoders']) == ['passage', 'query']
  query, passage = encoder.load_pair(tmp_path / 'out')
  wanted = encoder.SentenceEncoder.load(tiny_encoder_folder)
  texts = ['the capital of Peru']
  np.testing.assert_array_equal(passage.embed(texts), wanted.embed(texts))
  assert not np.allclose(query.embed(texts), wanted.embed(texts))


def test_equal_sides_are_one(tensors):
  state = {f'retriever.query_contriever.{n}': v for n, v in tensors.items()}
  state |= {f'retriever.passage_contriever.{n}': v for n, v in tensors.items()}
  assert set(retrievers._by_side(state)) == {''}


@pytest.mark.torch
def test_atlas_and_contriever_in_files_of_torch(
  tensors, tiny_encoder_folder, tmp_path
):
  torch = pytest.importorskip('torch')
  pytest.importorskip('tokenizers')
  of_torch = {n: torch.from_numpy(v.copy()) for n, v in tensors.items()}
  atlas = tmp_path / 'model.pth.tar'
  state = {f'retriever.contriever.{n}': v for n, v in of_torch.items()}
  state['reader.shared.weight'] = torch.zeros(2, 2)
  torch.save({'model': state, 'step': 3}, atlas)
  contriever = tmp_path / 'contriever'
  contriever.mkdir()
  torch.save(of_torch, contriever / 'pytorch_model.bin')
  wanted = encoder.SentenceEncoder.load(tiny_encoder_folder)
  for number, source in enumerate((atlas, contriever)):
    target = tmp_path / f'out{number}'
    assert convert(source, target, tiny_encoder_folder) == 0
    found, _ = encoder.load_pair(target)
    assert found.fingerprint == wanted.fingerprint


def test_what_is_no_retriever(tensors, tiny_encoder_folder, tmp_path, capsys):
  source = tmp_path / 'reader.safetensors'
  safetensors.numpy.save_file({'shared.weight': np.zeros((2, 2))}, source)
  assert convert(source, tmp_path / 'out', tiny_encoder_folder) == 2
  assert 'holds no retriever' in capsys.readouterr().err
  with pytest.raises(ConversionError, match='32 dimensions.*--config'):
    retrievers.describe(tensors, {}, 'x')
  with pytest.raises(ConversionError, match='no BERT encoder'):
    retrievers.describe({}, {}, 'x')
  source = tmp_path / 'half.safetensors'
  safetensors.numpy.save_file(
    {f'retriever.query_contriever.{n}': v for n, v in tensors.items()}, source
  )
  assert convert(source, tmp_path / 'out', tiny_encoder_folder) == 2
  assert "has the sides ['query']" in capsys.readouterr().err
  assert not (tmp_path / 'out').exists()


def test_no_vocabulary(tensors, tiny_encoder_folder, tmp_path, capsys):
  source = tmp_path / 'plain.safetensors'
  safetensors.numpy.save_file(tensors, source)
  code = main_lib.main(
    ['convert', '--part', 'retriever', str(source), str(tmp_path / 'out')]
    + ['--config', str(tiny_encoder_folder / 'config.json')]
  )
  assert code == 2
  assert '--vocabulary' in capsys.readouterr().err
