"""What all tests share: the platform, strictness, and a tiny reader family."""

from __future__ import annotations

import atexit
import os
import pathlib
import shutil
import sys
import tempfile

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
  # A tiny reader's programs are wanted by many tests, in every worker and in
  # the programs that tests start: each is compiled once in a run. Never in the
  # next run, so that no test can pass by what an older JAX has compiled.
  COMPILED = tempfile.mkdtemp(prefix='btr-tests-compiled-')
  atexit.register(shutil.rmtree, COMPILED, ignore_errors=True)
  os.environ['JAX_COMPILATION_CACHE_DIR'] = COMPILED
  os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
  os.environ['JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES'] = '-1'
# Before the first import of JAX: all are read when it starts.
import jax  # noqa: E402

if os.environ['JAX_PLATFORMS'] == 'cpu':
  jax.config.update('jax_num_cpu_devices', 4)
# [3] + [2, 3] is nearly always a mistake in a model.
jax.config.update('jax_numpy_rank_promotion', 'raise')

import pytest  # noqa: E402

CAPITALS = {
  'Peru': 'Lima',
  'Chile': 'Santiago',
  'Kenya': 'Nairobi',
  'Norway': 'Oslo',
  'Japan': 'Tokyo',
  'Egypt': 'Cairo',
  'Cuba': 'Havana',
  'Ghana': 'Accra',
  'Nepal': 'Kathmandu',
  'Iceland': 'Reykjavik',
  'Namibia': 'Windhoek',
  'Poland': 'Warsaw',
}


def pytest_collection_modifyitems(items):
  """Files with slow tests first: whoever gets one last is waited for."""
  slow = {item.path for item in items if item.get_closest_marker('slow')}
  items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def warn_of_cut_questions_anew():
  """A question is told of once per process; here once per test."""
  encoding = sys.modules.get('btr_jax.data.encoding')
  if encoding is not None:
    encoding._warn_cut.cache_clear()


@pytest.fixture(scope='session')
def repository() -> pathlib.Path:
  """The root of the checkout."""
  return pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope='session')
def shared_data() -> pathlib.Path:
  """Data that cannot be shipped; skips where BTR_SHARED_DATA names none."""
  folder = os.environ.get('BTR_SHARED_DATA')
  if not folder:
    pytest.skip('BTR_SHARED_DATA names no folder')
  return pathlib.Path(folder)


@pytest.fixture(scope='session')
def tiny_passages():
  """A corpus of two passages per country."""
  from btr_jax.data.records import Passage

  result = []
  for number, (country, capital) in enumerate(CAPITALS.items()):
    result.append(
      Passage(
        f'{country}-0',
        f'{country}: Government',
        f'Capital: {capital}. Independence - day: {number + 3} May.',
      )
    )
    result.append(
      Passage(
        f'{country}-1',
        f'{country}: Geography',
        f'Coastline: {100 + number} km. Climate: '
        + 'dry in the north, wet in the south. ' * (1 + number % 3),
      )
    )
  return result


@pytest.fixture(scope='session')
def tiny_records(tiny_passages):
  """A question per country, with four passages, the right one among them."""
  from btr_jax.data.records import Context, Record

  contexts = [Context(p.id, p.title, p.text) for p in tiny_passages]
  result = []
  for number, (country, capital) in enumerate(CAPITALS.items()):
    order = [2 * number, 2 * number + 1]
    order += [i for i in range(len(contexts)) if i not in order][:2]
    result.append(
      Record(
        id=f'q{number}',
        question=f'What is the capital of {country}?',
        answers=(capital,),
        contexts=tuple(contexts[i] for i in order),
      )
    )
  return result


@pytest.fixture(scope='session')
def tiny_vocabulary_file(tmp_path_factory, tiny_passages) -> pathlib.Path:
  """A SentencePiece vocabulary trained on the tiny corpus."""
  from btr_jax.data import vocabulary

  path = tmp_path_factory.mktemp('vocabulary') / 'vocabulary.model'
  texts = [f'title: {p.title} context: {p.text}' for p in tiny_passages]
  texts += [f'question: What is the capital of {c}? answer:' for c in CAPITALS]
  vocabulary.train_vocabulary(texts, path, vocab_size=140)
  return path


@pytest.fixture(scope='session')
def tiny_vocabulary(tiny_vocabulary_file):
  """The vocabulary, with the usual 100 extra ids."""
  from btr_jax.data import vocabulary

  return vocabulary.Vocabulary(tiny_vocabulary_file)


BERT_WORDS = (
  '[PAD] [UNK] [CLS] [SEP] [MASK] the capital of is a government geography '
  'coastline km climate independence day may ##s ##a ##e ##i ##n ##r ##o ##t '
  '. , : - ?'
)


@pytest.fixture(scope='session')
def tiny_encoder_folder(tmp_path_factory) -> pathlib.Path:
  """A sentence encoder of two layers with random weights, as published."""
  import json
  import string

  import numpy as np
  import safetensors.numpy

  from btr_jax.retrieval import bert

  folder = tmp_path_factory.mktemp('encoder')
  words = [*BERT_WORDS.split(), *map(str.lower, CAPITALS)]
  words += [*string.ascii_lowercase, *string.digits]
  words += [f'##{c}' for c in string.ascii_lowercase + string.digits]
  words = list(dict.fromkeys(words))
  (folder / 'vocab.txt').write_text('\n'.join(words) + '\n')
  config = {
    'model_type': 'bert',
    'vocab_size': len(words),
    'hidden_size': 32,
    'num_hidden_layers': 2,
    'num_attention_heads': 4,
    'intermediate_size': 48,
    'max_position_embeddings': 64,
    'type_vocab_size': 2,
    'layer_norm_eps': 1e-12,
    'hidden_act': 'gelu',
  }
  (folder / 'config.json').write_text(json.dumps(config))
  generator = np.random.default_rng(0)
  shapes = bert.shapes(bert.BertConfig(len(words), 32, 2, 4, 48, 64))
  shapes['embeddings.token_type_embeddings.weight'] = (2, 32)
  tensors = {
    name: (
      generator.standard_normal(shape) * 0.3 + ('Norm.weight' in name)
    ).astype(np.float32)
    for name, shape in shapes.items()
  }
  safetensors.numpy.save_file(
    tensors, folder / 'model.safetensors', {'format': 'pt'}
  )
  return folder


@pytest.fixture(scope='session')
def tiny_limits():
  """Room for the tiny corpus; 72 is no multiple of 16, on purpose."""
  from btr_jax import config

  return config.InputLimits(
    question_length=48, passage_length=72, answer_length=6, num_passages=4
  )


@pytest.fixture(scope='session')
def tiny_config(tiny_vocabulary):
  """Three encoder layers, two of them below the split."""
  from btr_jax import config

  return config.ReaderConfig(
    vocab_size=tiny_vocabulary.vocab_size,
    embed_dim=32,
    num_heads=2,
    head_dim=16,
    mlp_dim=48,
    num_encoder_layers=3,
    num_decoder_layers=2,
    split_layer=2,
    dropout_rate=0.0,
  )


def random_params(model, seed):
  """Parameters by NumPy: JAX would compile for seconds to draw the same."""
  import jax.numpy as jnp
  import numpy as np

  generator = np.random.default_rng(seed)
  shapes = jax.eval_shape(
    lambda key: model.get_initial_variables(key, model.input_shapes()),
    jax.random.key(0),
  )['params']

  def draw(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    values = generator.normal(size=leaf.shape).astype(np.float32)
    if name.rpartition('/')[2] in ('scale', 'deviation', 'level'):
      return jnp.asarray(1.0 + 0.1 * np.tanh(values))  # must be positive
    return jnp.asarray(0.25 * values)

  return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.fixture(scope='session')
def drawn_quickly():
  """drawn_quickly(model, seed) -> random parameters."""
  return random_params


@pytest.fixture(scope='session')
def tiny_family(
  tmp_path_factory, tiny_config, tiny_limits, tiny_vocabulary_file
) -> pathlib.Path:
  """A family directory of untrained readers, float32."""
  import dataclasses
  import json

  from btr_jax import config
  from btr_jax.models import model as model_lib
  from btr_jax.models import reader_files

  folder = tmp_path_factory.mktemp('family')
  stages = {
    'joint': (1, 'residual'),
    'decomposed': (2, 'residual'),
    'calibrated': (3, 'calibrated'),
    'residual': (3, 'residual'),
  }
  for seed, (name, (stage, kind)) in enumerate(stages.items()):
    reader_config = dataclasses.replace(
      tiny_config, codec=config.CodecConfig(kind)
    )
    model = model_lib.BtrModel(reader_config, tiny_limits, stage=stage)
    params = random_params(model, seed)
    reader_files.save_reader(
      folder / name,
      reader_config,
      tiny_limits,
      params,
      tiny_vocabulary_file,
      provenance={'trained': 'no'},
    )
  family = {name: name for name in stages} | {'default_codec': 'residual'}
  (folder / 'family.json').write_text(json.dumps(family))
  return folder


@pytest.fixture(scope='session')
def letter_reader(
  tmp_path_factory, tiny_config, tiny_limits, tiny_passages
) -> pathlib.Path:
  """An untrained joint reader whose vocabulary has the letters of choices."""
  import dataclasses

  from btr_jax.data import vocabulary as vocabulary_lib
  from btr_jax.models import model as model_lib
  from btr_jax.models import reader_files

  folder = tmp_path_factory.mktemp('letters')
  path = folder / 'vocabulary.model'
  texts = [f'title: {p.title} context: {p.text}' for p in tiny_passages]
  # Often enough, and in enough places, that each letter becomes one piece.
  texts += [f'options: ({a}) answer: {a}' for a in 'ABCD'] * 200
  texts += [f'answer {a} or {b}' for a in 'ABCD' for b in 'ABCD'] * 40
  vocabulary_lib.train_vocabulary(texts, path, vocab_size=130)
  reader_config = dataclasses.replace(
    tiny_config, vocab_size=vocabulary_lib.Vocabulary(path).vocab_size
  )
  model = model_lib.BtrModel(reader_config, tiny_limits)
  reader_files.save_reader(
    folder / 'reader',
    reader_config,
    tiny_limits,
    random_params(model, 5),
    path,
    provenance={'trained': 'no'},
  )
  return folder / 'reader'
