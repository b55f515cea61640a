"""`joint` against Hugging Face's T5 in torch, on random tiny weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from btr_jax import config as config_lib
from btr_jax.models import model as model_lib

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
pytestmark = [
  pytest.mark.torch,
  pytest.mark.filterwarnings('ignore'),
]


def _torch_t5(tied):
  config = transformers.T5Config(
    vocab_size=48,
    d_model=16,
    d_kv=8,
    d_ff=24,
    num_layers=3,
    num_decoder_layers=2,
    num_heads=2,
    feed_forward_proj='gated-gelu',
    dropout_rate=0.0,
    tie_word_embeddings=tied,
  )
  torch.manual_seed(0)
  model = transformers.T5ForConditionalGeneration(config).eval()
  if not tied:
    # transformers 5 ties the head even when told not to: give it its own.
    model.lm_head = torch.nn.Linear(16, 48, bias=False)
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      if 'layer_norm' in name:
        parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
      elif 'relative_attention_bias' in name:
        parameter.copy_(torch.randn_like(parameter))
  return model


def _our_params(model, tied):
  """The torch weights under T5X's names."""
  state = {k: v.detach().numpy() for k, v in model.state_dict().items()}

  def dense(name):
    return {'kernel': jnp.asarray(state[f'{name}.weight'].T)}

  def norm(name):
    return {'scale': jnp.asarray(state[f'{name}.weight'])}

  def attention(name):
    torch_names = {'query': 'q', 'key': 'k', 'value': 'v', 'out': 'o'}
    return {ours: dense(f'{name}.{t}') for ours, t in torch_names.items()}

  def mlp(name):
    return {part: dense(f'{name}.{part}') for part in ('wi_0', 'wi_1', 'wo')}

  def stack(name, num_layers, cross):
    prefix = f'{name}.block.0.layer.0.SelfAttention.relative_attention_bias'
    bias = jnp.asarray(state[f'{prefix}.weight'].T)
    result = {
      'relpos_bias': {'rel_embedding': bias},
      f'{name}_norm': norm(f'{name}.final_layer_norm'),
    }
    for i in range(num_layers):
      layer = f'{name}.block.{i}.layer'
      own = 'self_attention' if cross else 'attention'
      entry = {
        f'pre_{own}_layer_norm': norm(f'{layer}.0.layer_norm'),
        own: attention(f'{layer}.0.SelfAttention'),
      }
      if cross:
        entry['pre_cross_attention_layer_norm'] = norm(f'{layer}.1.layer_norm')
        entry['encoder_decoder_attention'] = attention(
          f'{layer}.1.EncDecAttention'
        )
      last = 2 if cross else 1
      entry['pre_mlp_layer_norm'] = norm(f'{layer}.{last}.layer_norm')
      entry['mlp'] = mlp(f'{layer}.{last}.DenseReluDense')
      result[f'layers_{i}'] = entry
    return result

  params = {
    'token_embedder': {'embedding': jnp.asarray(state['shared.weight'])},
    'encoder': stack('encoder', 3, cross=False),
    'decoder': stack('decoder', 2, cross=True),
  }
  if not tied:
    params['decoder']['logits_dense'] = dense('lm_head')
  return params


@pytest.mark.parametrize('tied', [False, True])
def test_joint_equals_fusion_in_decoder_in_torch(
  small_config, random_batch, tied
):
  """Encode [question ; passage] per passage in torch, fuse, decode."""
  limits = config_lib.InputLimits(6, 40, 5, 3)
  batch = random_batch(limits=limits)
  theirs = _torch_t5(tied)
  model = model_lib.BtrModel(
    small_config(logits_via_embedding=tied), limits, stage=1
  )
  params = _our_params(theirs, tied)
  expected_tree = jax.eval_shape(
    lambda: model.get_initial_variables(
      jax.random.key(0), model.input_shapes()
    )['params']
  )
  assert jax.tree.map(jnp.shape, params) == jax.tree.map(
    jnp.shape, expected_tree
  )
  logits, encoded = model.module.apply(
    {'params': params},
    batch['question_tokens'],
    batch['passage_tokens'],
    batch['decoder_input_tokens'],
    'joint',
  )

  question = np.asarray(batch['question_tokens'])
  passages = np.asarray(batch['passage_tokens'])
  tokens = np.concatenate(
    [np.repeat(question[:, None], passages.shape[1], 1), passages], axis=-1
  )
  rows = torch.tensor(tokens.reshape(-1, tokens.shape[-1])).long()
  with torch.no_grad():
    memory = theirs.encoder(
      input_ids=rows, attention_mask=(rows != 0).long()
    ).last_hidden_state
    mask = torch.tensor(np.array(encoded.mask)).long()
    memory = memory.reshape(question.shape[0], -1, memory.shape[-1])
    their_logits = theirs(
      encoder_outputs=(memory,),
      attention_mask=mask,
      decoder_input_ids=torch.tensor(
        np.array(batch['decoder_input_tokens'])
      ).long(),
    ).logits.numpy()
  real = np.asarray(encoded.mask)
  np.testing.assert_allclose(
    np.asarray(encoded.states)[real], memory.numpy()[real], atol=1e-5
  )
  np.testing.assert_allclose(logits, their_logits, atol=1e-5)
