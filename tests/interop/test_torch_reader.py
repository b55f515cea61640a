"""The baseline in torch: the same greedy tokens as our joint reader."""

import jax
import numpy as np
import pytest

from btr_jax import config as config_lib
from btr_jax.evaluation import benchmark_inputs
from btr_jax.interop import torch_reader
from btr_jax.models import model as model_lib

pytest.importorskip('torch')
pytest.importorskip('transformers')
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings('ignore')]


@pytest.mark.parametrize('tied', [False, True])
def test_same_tokens(tied, monkeypatch):
  sizes = dict(benchmark_inputs.SIZES['tiny'], vocab_size=96, embed_dim=32)
  sizes |= dict(num_heads=2, head_dim=16, mlp_dim=48, num_encoder_layers=3)
  sizes |= dict(split_layer=2, logits_via_embedding=tied)
  monkeypatch.setitem(benchmark_inputs.SIZES, 'tiny', sizes)
  reader = benchmark_inputs.random_reader(
    'tiny', config_lib.CodecConfig('residual'), 'float32'
  )
  limits = config_lib.InputLimits(6, 20, 7, 3)
  model = model_lib.BtrModel(reader.config, limits, stage=1)
  rng = np.random.default_rng(0)
  questions = rng.integers(3, 96, (24, 6), np.int32)
  questions[::2, :2] = 0
  passages = rng.integers(3, 96, (24, 3, 20), np.int32)
  passages[::3, 1, 12:] = 0
  passages[1, 2] = 0
  batch = {'question_tokens': questions, 'passage_tokens': passages}
  ours = jax.jit(model.predict_batch)(reader.params, batch)
  theirs = torch_reader.TorchReader(reader.config, reader.params, 1).answer(
    questions, passages, 7
  )
  assert len(np.unique(theirs, axis=0)) > 6
  np.testing.assert_array_equal(ours, theirs)
