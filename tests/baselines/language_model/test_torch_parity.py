"""Logits against transformers' LlamaForCausalLM, on random tiny weights."""

import jax.numpy as jnp
import numpy as np
import pytest

from btr_jax.baselines.language_model import (
  descriptions,
  parameters,
)
from btr_jax.baselines.language_model import model as model_lib

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
pytestmark = [
  pytest.mark.torch,
  pytest.mark.filterwarnings('ignore'),
]
LLAMA3 = {
  'rope_type': 'llama3',
  'rope_theta': 500.0,
  'factor': 8.0,
  'low_freq_factor': 1.0,
  'high_freq_factor': 4.0,
  'original_max_position_embeddings': 16,
}


@pytest.mark.parametrize(
  'tied, kv_heads, head_dim, rope',
  [
    (False, 4, 8, {'rope_type': 'default', 'rope_theta': 10000.0}),
    (True, 2, 8, {'rope_type': 'linear', 'rope_theta': 1e4, 'factor': 2.0}),
    (False, 1, 12, LLAMA3),
  ],
)
def test_logits_equal_those_of_torch(tied, kv_heads, head_dim, rope):
  config = transformers.LlamaConfig(
    vocab_size=50,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=kv_heads,
    head_dim=head_dim,
    max_position_embeddings=64,
    rms_norm_eps=1e-5,
    rope_parameters=rope,
    tie_word_embeddings=tied,
  )
  torch.manual_seed(0)
  theirs = transformers.LlamaForCausalLM(config).eval()
  with torch.no_grad():
    for parameter in theirs.parameters():
      noise = torch.randn_like(parameter)
      parameter.copy_(0.3 * noise + (parameter.dim() == 1))
  state = {k: v.detach().numpy() for k, v in theirs.state_dict().items()}
  ours = descriptions.from_hugging_face(config.to_dict(), 'config.json')
  assert ours.logits_via_embedding == tied
  params = parameters.from_tensors(
    {
      name: parameters.Stored(tuple(v.shape), lambda v=v: v)
      for name, v in state.items()
    },
    ours,
    'state_dict',
  )
  generator = np.random.default_rng(0)
  tokens = generator.integers(0, 50, (3, 40)).astype(np.int32)
  mask = np.arange(40)[None] >= np.array([0, 11, 33])[:, None]
  found = model_lib.LanguageModel(ours).apply(
    {'params': params}, jnp.asarray(tokens), jnp.asarray(mask)
  )
  positions = np.maximum(mask.cumsum(1) - 1, 0)
  with torch.no_grad():
    expected = theirs(
      input_ids=torch.tensor(tokens).long(),
      attention_mask=torch.tensor(mask).long(),
      position_ids=torch.tensor(positions).long(),
    ).logits.numpy()
  assert np.abs(expected).max() > 1
  np.testing.assert_allclose(np.asarray(found)[mask], expected[mask], atol=1e-4)
