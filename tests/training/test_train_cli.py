"""`python -m btr_jax.train`: flags, errors, SIGTERM, no TensorFlow."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from btr_jax import train
from btr_jax.training import checkpoints as checkpoints_lib

TINY = 'gin_configs/btr_tiny.gin'


def test_parse_flags():
  files, bindings, paths = train.parse_flags(
    [
      '--gin_file=a.gin',
      '--gin_file',
      'b.gin',
      "--gin.MODEL_DIR='runs/x=1'",
      '--gin.recipe.Recipe.seed=3',
      '--gin_search_paths=one,two',
    ]
  )
  assert files == ['a.gin', 'b.gin']
  assert bindings == ["MODEL_DIR = 'runs/x=1'", 'recipe.Recipe.seed = 3']
  assert paths == ['one', 'two']


@pytest.mark.parametrize(
  'argv, message',
  [
    ([], 'No --gin_file; .*btr_tiny.gin'),
    (['--gin_files=a.gin'], 'Unknown flag --gin_files.*mean --gin_file'),
    (['--gin_file'], 'Flag --gin_file has no value'),
    (['a.gin'], "Unexpected argument 'a.gin'"),
  ],
)
def test_bad_flags(argv, message):
  with pytest.raises(train.ConfigError, match=message):
    train.parse_flags(argv)


@pytest.mark.parametrize(
  'files, bindings, message',
  [
    (['nowhere.gin'], [], "No gin file 'nowhere.gin' in .*--gin_search_paths"),
    ([TINY], ['LEARNIN_RATE = 1'], 'LEARNIN_RATE.*mean LEARNING_RATE'),
    ([TINY], ['recipe.Recipe.sed = 1'], "doesn't have a parameter named 'sed'"),
    ([TINY], ['nothing.seed = 1'], "No configurable matching 'nothing'"),
    ([TINY], ['MODEL_DIR = runs'], 'strings need quotes inside quotes'),
    ([TINY], ['MESH = (1,'], 'Cannot use the flags'),
    (['gin_configs/btr_base.gin'], [], 'incomplete: MODEL_DIR'),
    (['gin_configs/models/tiny.gin'], [], 'Nothing reads|incomplete'),
  ],
)
def test_bad_configurations(files, bindings, message):
  with pytest.raises(train.ConfigError, match=message):
    train.parse_config(files, bindings)


def test_flags_win_over_files():
  train.parse_config([TINY], ['TRAIN_STEPS = 7', "CODEC = 'calibrated'"])
  arguments = train.build_arguments('recipe', 'reader')
  assert arguments['recipe'].train_steps == 7
  assert arguments['reader'].codec.kind == 'calibrated'


@pytest.mark.parametrize(
  'argv, status, message',
  [
    (['--gin.STAGE=1'], 2, 'error: No --gin_file'),
    ([f'--gin_file={TINY}', '--gin.STAGE=4'], 1, 'error: STAGE is 4'),
  ],
)
def test_main_prints_errors_without_a_traceback(
  argv, status, message, capsys, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  assert train.main(argv) == status
  error = capsys.readouterr().err
  assert message in error
  assert 'Traceback' not in error and 'In call to configurable' not in error
  assert list(tmp_path.iterdir()) == []


def test_help(capsys):
  assert train.main(['--help']) == 0
  assert '--gin_file=gin_configs/btr_tiny.gin' in capsys.readouterr().out


@pytest.fixture
def toy_gin(tmp_path, prepared_folder, toy_limits) -> pathlib.Path:
  """A gin file like a user's: the tiny run, but smaller and from files."""
  lengths = '\n'.join(
    f'{name.upper()} = {value}' for name, value in toy_limits.to_dict().items()
  )
  path = tmp_path / 'toy.gin'
  path.write_text(f"""
from __gin__ import dynamic_registration
from btr_jax import config
from btr_jax.training import sources
include '{TINY}'
{lengths}
DATA = @sources.NpzSource()
sources.NpzSource.folder = '{prepared_folder}'
MODEL_DIR = '{tmp_path / 'run'}'
STAGE = 1
VOCAB_SIZE = 228
SPLIT_LAYER = 1
BATCH_SIZE = 4
TRAIN_STEPS = 1000000
LEARNING_RATE = 1e-3
WARMUP_STEPS = 5
LOG_PERIOD = 1
SAVE_PERIOD = 0
EVAL_PERIOD = 0
config.ReaderConfig:
  embed_dim = 16
  num_heads = 2
  head_dim = 8
  mlp_dim = 16
  num_encoder_layers = 2
  num_decoder_layers = 1
""")
  return path


# Prepared batches need no TensorFlow: make importing it fail.
_BLOCKED = """
import sys
sys.modules['tensorflow'] = None
sys.modules['seqio'] = None
from btr_jax import train
sys.exit(train.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_sigterm_saves_and_exits_0_without_tensorflow(toy_gin, tmp_path):
  run = tmp_path / 'run' / 'stage1'
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu'}
  environment.pop('XLA_FLAGS', None)
  command = [
    sys.executable, '-c', _BLOCKED,
    f'--gin_file={toy_gin}', '--gin.TENSORBOARD=False',
  ]  # fmt: skip
  with open(tmp_path / 'output.txt', 'w') as output:
    process = subprocess.Popen(
      command, env=environment, stdout=output, stderr=subprocess.STDOUT
    )
    try:
      metrics = run / 'metrics.jsonl'
      deadline = time.monotonic() + 120
      while not (metrics.exists() and metrics.stat().st_size):
        assert process.poll() is None, (tmp_path / 'output.txt').read_text()
        assert time.monotonic() < deadline
        time.sleep(0.1)
      process.send_signal(signal.SIGTERM)
      assert process.wait(timeout=60) == 0
    finally:
      process.kill()
  text = (tmp_path / 'output.txt').read_text()
  steps = checkpoints_lib.steps_in(run)
  assert len(steps) == 1 and steps[0] > 0
  assert f'saved {run}/checkpoint_{steps[0]}' in text
  assert 'the same command goes on from there' in text
  assert not (run / 'reader').exists()
  assert (tmp_path / 'run' / 'operative_config_stage_1.gin').is_file()
