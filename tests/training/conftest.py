"""A model with one table, batches to learn by heart, and prepared files."""

from __future__ import annotations

import json
import os
import pathlib
import select
import subprocess
import sys
import time

from clu import metrics as clu_metrics
from flax.linen import partitioning as flax_partitioning
import jax
from jax.experimental.compilation_cache import compilation_cache
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np
import pytest

from btr_jax import config as config_lib
from btr_jax.data import prompts
from btr_jax.data import vocabulary as vocabulary_lib
from btr_jax.training import partitioning

VOCAB, EMBED, QUESTION, ANSWER = 16, 8, 3, 2


class TableModel:
  """T5X's methods on a bag of words; learns in no time, compiles in less."""

  mode = 'joint'

  def __init__(self, embed=EMBED, noise=0.1, teacher=False):
    self._embed = embed
    self._noise = noise
    self._teacher = teacher

  def input_shapes(self, batch_size=1):
    return {'question_tokens': (batch_size, QUESTION)}

  def get_initial_variables(self, rng, input_shapes, input_types=None):
    del input_shapes, input_types
    keys = jax.random.split(rng)
    params = {
      'token_embedder': {
        'embedding': jax.random.normal(keys[0], (VOCAB, self._embed))
      },
      'head': {
        'kernel': jax.random.normal(keys[1], (self._embed, VOCAB)),
        'scale': jnp.ones((self._embed,)),
      },
    }

    def axes(*names):
      return flax_partitioning.AxisMetadata(names=PartitionSpec(*names))

    params_axes = {
      'token_embedder': {'embedding_axes': axes('vocab', 'embed')},
      'head': {
        'kernel_axes': axes('embed', 'vocab'),
        'scale_axes': axes('embed'),
      },
    }
    variables = {'params': params, 'params_axes': params_axes}
    if self._teacher:
      variables['teacher'] = params
      variables['teacher_axes'] = params_axes
    return variables

  def _logits(self, params, batch, rng=None):
    embedded = params['token_embedder']['embedding'][batch['question_tokens']]
    state = embedded.mean(axis=1) * params['head']['scale'][None]
    if rng is not None:
      state += self._noise * jax.random.normal(rng, state.shape)
    logits = state @ params['head']['kernel']
    return jnp.repeat(logits[:, None], ANSWER, axis=1)

  def _loss(self, params, batch, rng=None):
    logits = self._logits(params, batch, rng)
    log_probs = jax.nn.log_softmax(logits)
    target = batch['decoder_target_tokens'][..., None]
    picked = jnp.take_along_axis(log_probs, target, axis=-1)[..., 0]
    weights = batch['decoder_loss_weights']
    count = jnp.maximum(weights.sum(), 1.0)
    loss = -(picked * weights).sum() / count
    return loss, {'loss': clu_metrics.Average(total=loss * count, count=count)}

  def loss_fn(self, params, batch, dropout_rng, flax_mutables=None):
    loss, metrics = self._loss(params, batch, dropout_rng)
    if flax_mutables:
      gap = (
        params['head']['kernel'] - flax_mutables['teacher']['head']['kernel']
      )
      return loss + jnp.mean(gap**2), (metrics, flax_mutables)
    return loss, metrics

  def eval_fn(self, params, batch, flax_mutables=None):
    return self._loss(params, batch)

  def predict_batch(self, params, batch, rng=None):
    return jnp.argmax(self._logits(params, batch), axis=-1).astype(jnp.int32)


def table_batches(batch_size=8, start_step=0, seed=0):
  """Endless batches that depend on seed and step alone."""
  step = start_step
  while True:
    rng = np.random.default_rng((seed, step))
    questions = rng.integers(1, VOCAB, (batch_size, QUESTION), dtype=np.int32)
    weights = np.ones((batch_size, ANSWER), np.float32)
    weights[::2, 1] = 0.0
    yield {
      'question_tokens': questions,
      'decoder_target_tokens': np.repeat(questions[:, :1], ANSWER, axis=1),
      'decoder_loss_weights': weights,
    }
    step += 1


@pytest.fixture
def table_model():
  return TableModel()


@pytest.fixture
def make_table_model():
  return TableModel


@pytest.fixture
def make_table_batches():
  return table_batches


@pytest.fixture(scope='session')
def one_device_mesh():
  return partitioning.make_mesh((1, 1), jax.devices()[:1])


@pytest.fixture(scope='session')
def square_mesh():
  if len(jax.devices()) < 4:
    pytest.skip('needs four devices; tests/conftest.py makes them on CPU')
  return partitioning.make_mesh((2, 2), jax.devices()[:4])


@pytest.fixture(scope='module')
def quick_compilation(tmp_path_factory):
  """Compiles with little optimization, and the same program only once."""
  changes = {
    'jax_disable_most_optimizations': True,
    # Of its own: what is compiled so is for nobody else.
    'jax_compilation_cache_dir': str(tmp_path_factory.mktemp('compiled')),
    'jax_persistent_cache_min_compile_time_secs': 0.0,
    'jax_persistent_cache_min_entry_size_bytes': -1,
  }
  # The first, a flag, is no attribute of the config.
  before = {name: getattr(jax.config, name, False) for name in changes}
  for values in (changes, before):
    for name, value in values.items():
      jax.config.update(name, value)
    compilation_cache.reset_cache()
    if values is changes:
      yield


WORDS = [a + b + c for a in 'bdkl' for b in 'aeiou' for c in ('n', 'sto')]
LENGTHS = {
  'question_length': 12,
  'passage_length': 16,
  'answer_length': 5,
  'num_passages': 2,
}


@pytest.fixture(scope='session')
def toy_limits():
  return config_lib.InputLimits(**LENGTHS)


@pytest.fixture(scope='session')
def prepared_folder(tmp_path_factory):
  """train.npz, validation.npz and vocabulary.model for NpzSource."""
  folder = tmp_path_factory.mktemp('prepared')
  rng = np.random.default_rng(0)
  texts = [' '.join(rng.choice(WORDS, 12)) for _ in range(300)]
  texts += ['question: answer: title: context:'] * 5
  path = folder / 'vocabulary.model'
  vocabulary_lib.train_vocabulary(texts, path, vocab_size=128)
  vocabulary = vocabulary_lib.Vocabulary(path)

  def pad(ids, length):
    return np.pad(ids[:length], (0, length - len(ids[:length])))

  def examples(count):
    rows = {'question_tokens': [], 'passage_tokens': [], 'targets': []}
    for _ in range(count):
      word = rng.choice(WORDS)
      ids = vocabulary.encode(prompts.format_question(word))
      ids = ids[-LENGTHS['question_length'] :]
      rows['question_tokens'].append(
        np.pad(ids, (LENGTHS['question_length'] - len(ids), 0))
      )
      rows['passage_tokens'].append(
        [
          pad(
            vocabulary.encode(prompts.format_passage(word, other)) + [1],
            LENGTHS['passage_length'],
          )
          for other in rng.choice(WORDS, LENGTHS['num_passages'])
        ]
      )
      rows['targets'].append(
        pad(
          vocabulary.encode(prompts.format_answer(word)) + [1],
          LENGTHS['answer_length'],
        )
      )
    targets = np.array(rows.pop('targets'), np.int32)
    arrays = {name: np.array(rows[name], np.int32) for name in rows}
    arrays['decoder_target_tokens'] = targets
    arrays['decoder_input_tokens'] = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    arrays['decoder_loss_weights'] = (targets > 0).astype(np.float32)
    return arrays

  np.savez(folder / 'train.npz', **examples(40))
  np.savez(folder / 'validation.npz', **examples(6))
  return folder


class TrainServer:
  """Starts runs of the trainer through `train_server.py`."""

  def __init__(self, folder, **environment):
    self._folder = folder
    self._ended = {}
    self._started = 0
    self._unread = b''
    self._server = subprocess.Popen(
      [sys.executable, str(pathlib.Path(__file__).parent / 'train_server.py')],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=open(folder / 'server.txt', 'w'),
      env={**os.environ, 'JAX_PLATFORMS': 'cpu', **environment},
      text=True,
    )

  def start(self, argv, devices=1):
    """Starts a run; returns its pid and the file of its output."""
    self._started += 1
    output = self._folder / f'output_{self._started}.txt'
    request = {'argv': argv, 'devices': devices, 'output': str(output)}
    self._server.stdin.write(json.dumps(request) + '\n')
    self._server.stdin.flush()
    while True:
      word, pid, *rest = self._read(120)
      if word == 'pid':
        return int(pid), output
      self._ended[int(pid)] = int(rest[0])

  def wait(self, pid, timeout=240):
    """The exit status of a run: negative for a signal."""
    deadline = time.monotonic() + timeout
    while pid not in self._ended:
      _, ended, status = self._read(deadline - time.monotonic())
      self._ended[int(ended)] = int(status)
    return self._ended[pid]

  def _read(self, timeout):
    stdout = self._server.stdout
    deadline = time.monotonic() + timeout
    # Not readline: it may take two lines and keep one where select, which
    # only knows the pipe, does not see it.
    while b'\n' not in self._unread:
      left = max(0.0, deadline - time.monotonic())
      ready, _, _ = select.select([stdout], [], [], left)
      data = os.read(stdout.fileno(), 1 << 16) if ready else b''
      assert data, 'no answer: ' + (self._folder / 'server.txt').read_text()
      self._unread += data
    line, self._unread = self._unread.split(b'\n', 1)
    return line.decode().split()

  def close(self):
    """Ends the server."""
    self._server.stdin.close()
    self._server.wait(timeout=60)
    self._server.stdout.close()


@pytest.fixture(scope='module')
def train_server(tmp_path_factory):
  """A TrainServer that compiles each program once."""
  folder = tmp_path_factory.mktemp('server')
  server = TrainServer(
    folder,
    JAX_COMPILATION_CACHE_DIR=str(folder / 'compiled'),
    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS='0',
    JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES='-1',
    JAX_DISABLE_MOST_OPTIMIZATIONS='1',
  )
  yield server
  server.close()


@pytest.fixture(scope='session')
def spread_gin(tmp_path_factory, prepared_folder, toy_limits):
  """A gin file of a run of seconds whose sizes divide by four."""
  lengths = '\n'.join(
    f'{name.upper()} = {value}' for name, value in toy_limits.to_dict().items()
  )
  path = tmp_path_factory.mktemp('gin') / 'spread.gin'
  path.write_text(f"""
from __gin__ import dynamic_registration
from btr_jax import config
from btr_jax.training import sources
include 'gin_configs/btr_tiny.gin'
{lengths}
DATA = @sources.NpzSource()
sources.NpzSource.folder = '{prepared_folder}'
STAGE = 1
VOCAB_SIZE = 228
SPLIT_LAYER = 1
BATCH_SIZE = 4
TRAIN_STEPS = 8
SCHEDULE = 'constant'
LEARNING_RATE = 1e-3
WARMUP_STEPS = 0
LOG_PERIOD = 1
SAVE_PERIOD = 0
EVAL_PERIOD = 0
EVAL_BATCHES = 0
TENSORBOARD = False
config.ReaderConfig:
  embed_dim = 16
  num_heads = 4
  head_dim = 4
  mlp_dim = 16
  num_encoder_layers = 2
  num_decoder_layers = 1
""")
  return path
