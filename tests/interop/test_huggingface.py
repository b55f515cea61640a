"""Hugging Face folders through a reader directory and back."""

import json

import ml_dtypes
import numpy as np
import pytest

from btr_jax.interop import safetensors_files
from btr_jax.models import reader_files


def _weights(folder):
  index = folder / 'model.safetensors.index.json'
  if index.is_file():
    return safetensors_files.read_sharded(index)
  return safetensors_files.read_file(folder / 'model.safetensors')


@pytest.mark.parametrize('max_bytes', [10**9, 30_000])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
def test_round_trip_is_exact(
  tmp_path, make_hugging_face, converted, assert_same_bits, dtype, max_bytes
):
  theirs = make_hugging_face(dtype, max_bytes)
  record = converted(theirs, tmp_path / 'reader', '--split-layer', 1)
  assert record['source_format'] == 'huggingface'
  assert record['dtypes'] == {dtype: record['tensors']}
  reader = reader_files.load_reader(tmp_path / 'reader')
  assert reader.config.split_layer == 1
  assert reader.provenance['source'] == 'theirs'

  flags = ('--to', 'huggingface', '--max-shard-size', max_bytes)
  converted(tmp_path / 'reader', tmp_path / 'back', *flags)
  assert_same_bits(_weights(tmp_path / 'back'), _weights(theirs))
  old, new = (
    json.loads((folder / 'config.json').read_text())
    for folder in (theirs, tmp_path / 'back')
  )
  assert {key: new[key] for key in old} == old
  names = ('spiece.model', *(p.name for p in theirs.glob('*.safetensors')))
  for name in names:
    assert (tmp_path / 'back' / name).read_bytes() == (
      theirs / name
    ).read_bytes()


def test_mixed_dtypes_are_kept(
  tmp_path, make_hugging_face, converted, assert_same_bits
):
  """As transformers keeps `wo` in float32 beside float16."""

  def change(tensors):
    for name in tensors:
      if name.endswith('.wo.weight'):
        tensors[name] = tensors[name].astype(np.float32)

  theirs = make_hugging_face('float16', change=change)
  record = converted(theirs, tmp_path / 'reader')
  assert record['dtypes'] == {'float16': record['tensors'] - 5, 'float32': 5}
  converted(tmp_path / 'reader', tmp_path / 'back', '--to', 'huggingface')
  assert_same_bits(_weights(tmp_path / 'back'), _weights(theirs))


def test_dtype_can_be_changed(tmp_path, make_hugging_face, converted):
  theirs = make_hugging_face('float32')
  record = converted(theirs, tmp_path / 'reader', '--dtype', 'bfloat16')
  assert list(record['dtypes']) == ['bfloat16']
  before = _weights(theirs)['shared.weight']
  after = safetensors_files.read_file(tmp_path / 'reader/model.safetensors')
  np.testing.assert_array_equal(
    after['token_embedder/embedding'], before.astype(ml_dtypes.bfloat16)
  )


def test_a_weight_file_without_its_folder(
  tmp_path, make_hugging_face, converted, refused
):
  """Architecture from shapes; the vocabulary by flag."""
  theirs = make_hugging_face()
  lone = tmp_path / 'lone' / 'weights.safetensors'
  lone.parent.mkdir()
  (theirs / 'model.safetensors').rename(lone)
  assert '--vocabulary' in refused(lone, tmp_path / 'reader')
  assert not (tmp_path / 'reader').exists()
  vocabulary = ('--vocabulary', theirs / 'spiece.model')
  record = converted(lone, tmp_path / 'reader', *vocabulary)
  assert record['architecture_from'] == 'the shapes of the weights'
  given = ('--config', theirs / 'config.json')
  record = converted(lone, tmp_path / 'given', *vocabulary, *given)
  assert record['architecture_from'] == 'config.json'


def test_limits_and_sentinels_by_flag(
  tmp_path, make_hugging_face, converted, refused
):
  theirs = make_hugging_face()
  assert 'has 340 ids with 200 sentinels' in refused(
    theirs, tmp_path / 'reader', '--extra-ids', 200
  )
  converted(
    theirs,
    tmp_path / 'reader',
    *('--extra-ids', 20, '--num-passages', 40, '--passage-length', 200),
  )
  reader = reader_files.load_reader(tmp_path / 'reader')
  assert reader.limits.num_passages == 40
  assert reader.limits.passage_length == 200
  assert reader.limits.answer_length == 16
  assert reader.vocabulary.vocab_size == 160


@pytest.mark.parametrize(
  'change, message',
  [
    (
      lambda t: t.pop('lm_head.weight'),
      'lm_head.weight: missing, expected (240, 32)',
    ),
    (
      lambda t: t.update(extra=np.zeros(3, np.float32)),
      'extra: unknown, found (3,)',
    ),
    (
      lambda t: t.update({'shared.weight': t['shared.weight'][:-1]}),
      'shared.weight: found (239, 32), expected (240, 32)',
    ),
  ],
)
def test_what_does_not_fit_is_refused(
  tmp_path, make_hugging_face, refused, change, message
):
  theirs = make_hugging_face(change=change)
  assert message in refused(theirs, tmp_path / 'reader')
  assert not (tmp_path / 'reader').exists()


@pytest.mark.parametrize('text', ['{', '[1]', '{"model_type": "bert"}'])
def test_a_wrong_config_is_refused(tmp_path, make_hugging_face, refused, text):
  theirs = make_hugging_face()
  (theirs / 'config.json').write_text(text)
  assert 'config.json' in refused(theirs, tmp_path / 'reader')


def test_the_first_t5_keeps_relu_and_ties(
  tmp_path, make_hugging_face, converted, assert_same_bits
):
  theirs = make_hugging_face(
    mlp_activations=('relu',), logits_via_embedding=True
  )
  record = converted(theirs, tmp_path / 'reader')
  assert record['config']['mlp_activations'] == ['relu']
  assert record['config']['logits_via_embedding']
  converted(tmp_path / 'reader', tmp_path / 'back', '--to', 'huggingface')
  assert_same_bits(_weights(tmp_path / 'back'), _weights(theirs))


@pytest.mark.parametrize('scaled', [True, False])
def test_config_as_transformers_5_writes_it(
  tmp_path, make_hugging_face, converted, refused, scaled
):
  """It says that all are tied; scale_decoder_outputs tells the two apart."""
  theirs = make_hugging_face(change=lambda t: t.pop('lm_head.weight'))
  config = json.loads((theirs / 'config.json').read_text())
  assert 'lm_head.weight: missing' in refused(theirs, tmp_path / 'reader')
  config.update(tie_word_embeddings=True, scale_decoder_outputs=scaled)
  (theirs / 'config.json').write_text(json.dumps(config))
  record = converted(theirs, tmp_path / 'reader')
  assert record['config']['logits_via_embedding'] == scaled
  found = safetensors_files.read_file(tmp_path / 'reader/model.safetensors')
  assert ('decoder/logits_dense/kernel' in found) != scaled
  if not scaled:
    np.testing.assert_array_equal(
      found['decoder/logits_dense/kernel'].T, found['token_embedder/embedding']
    )
