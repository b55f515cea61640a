"""The network: isolation of passages, bits, and the published reader."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from btr_jax.baselines.span_reader import config as config_lib
from btr_jax.baselines.span_reader import model as model_lib
from btr_jax.baselines.span_reader import network
from btr_jax.baselines.span_reader import tokenizer as tokenizer_lib


@pytest.fixture(scope='module')
def tokens(untrained, questions, passages):
  """(question tokens [batch, length], passage tokens [batch, 3, length])."""
  asked = untrained.tokenizer.questions(questions)
  rows = [
    tokenizer_lib.padded(
      [p.ids for p in untrained.tokenizer.passages(own)],
      untrained.config.passage_length,
    )
    for own in passages
  ]
  return jnp.asarray(asked), jnp.asarray(np.stack(rows))


@pytest.fixture(scope='module')
def scores(untrained):
  """Scores of a batch in a mode; compiled once per mode and shape."""
  compiled = {}

  def run(mode, asked, read, params=None):
    if mode not in compiled:
      model = model_lib.SpanModel(untrained.config)

      def forward(params, asked, read, mode=mode):
        rows = jnp.arange(read.shape[0] * read.shape[1])
        batch = {
          'question_tokens': asked,
          'passage_tokens': read.reshape(-1, read.shape[-1]),
          'passage_of': rows.reshape(read.shape[:2]),
        }
        return model.forward(params, batch, mode)

      compiled[mode] = jax.jit(forward)
    return compiled[mode](params or untrained.params, asked, read)[0]

  return run


@pytest.mark.parametrize('mode', config_lib.MODES)
def test_passages_do_not_see_one_another(mode, scores, tokens):
  asked, read = tokens
  found = scores(mode, asked, read)
  changed = read.at[:, 1].set(read[:, 0])
  other = scores(mode, asked, changed)
  np.testing.assert_array_equal(found.start[:, 0], other.start[:, 0])
  np.testing.assert_array_equal(found.end[:, 2], other.end[:, 2])
  assert not np.array_equal(found.start[:, 1], other.start[:, 1])


def test_padding_changes_nothing(scores, tokens):
  """A passage scores the same with less padding behind it."""
  asked, read = tokens
  longest = int((read != 0).sum(-1)[:, 0].max())
  assert 4 < longest < read.shape[-1]
  whole = scores('binary', asked, read).start[:, 0, :longest]
  short = scores('binary', asked, read[:, :, :longest]).start[:, 0]
  np.testing.assert_allclose(whole, short, atol=1e-4, rtol=1e-4)


def test_modes_differ_and_share_their_parameters(scores, tokens):
  asked, read = tokens
  joint, apart, bits = (
    scores(mode, asked, read).start for mode in config_lib.MODES
  )
  assert not np.allclose(joint, apart, atol=1e-3)
  assert not np.allclose(apart, bits, atol=1e-3)


def test_lower_states_know_neither_question_nor_neighbours(untrained, tokens):
  encode = jax.jit(
    lambda params, tokens: network.encode_passages(
      params, tokens, untrained.config
    )
  )
  flat = tokens[1].reshape(-1, tokens[1].shape[-1])
  together = encode(untrained.params, flat)
  reordered = encode(untrained.params, flat[::-1])
  np.testing.assert_allclose(together, reordered[::-1], atol=1e-5)


def test_bits_survive_packing(untrained):
  states = np.random.default_rng(0).standard_normal((3, 5, 32))
  signs = network.to_signs(untrained.params, jnp.asarray(states, jnp.float32))
  assert set(np.unique(signs)) == {-1.0, 1.0}
  packed = network.pack(signs)
  assert packed.shape == (3, 5, 4) and packed.dtype == jnp.uint8
  np.testing.assert_array_equal(network.unpack(packed), signs)


def test_only_the_text_is_answered_from(config):
  separator = config.separator_id
  tokens = jnp.array([[9, 9, separator, 8, 7, separator, 0, 0]])
  np.testing.assert_array_equal(
    network.text_mask(tokens, separator)[0], [0, 0, 0, 1, 1, 0, 0, 0]
  )


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'split_layer': 0}, 'split_layer is 0; expected 1 to 1'),
    ({'split_layer': 2}, 'split_layer is 2; expected 1 to 1'),
    ({'passage_length': 60}, 'the encoder has 64 positions'),
    ({'answer_length': 0}, 'answer_length is 0; expected at least 1'),
  ],
)
def test_impossible_readers_are_refused(config, change, message):
  import dataclasses

  with pytest.raises(ValueError, match=message):
    dataclasses.replace(config, **change)


@pytest.mark.torch
def test_joint_equals_transformers(
  untrained, tiny_encoder_folder, scores, tokens
):
  """BertForQuestionAnswering on [CLS] question [SEP] passage [SEP]."""
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  config = untrained.config
  model = transformers.BertForQuestionAnswering.from_pretrained(
    tiny_encoder_folder
  ).eval()
  params = dict(untrained.params)
  params['passage'] = jax.tree.map(np.zeros_like, params['passage'])
  with torch.no_grad():
    head = params['span']
    model.qa_outputs.weight.copy_(torch.tensor(head['weight'].T))
    model.qa_outputs.bias.copy_(torch.tensor(head['bias']))
  asked, read = tokens[0], tokens[1][:, :1]
  ids = np.concatenate([asked, read[:, 0]], axis=1)
  segments = np.arange(ids.shape[1]) >= config.question_length
  with torch.no_grad():
    wanted = model(
      input_ids=torch.tensor(ids),
      attention_mask=torch.tensor((ids != 0).astype(np.int64)),
      token_type_ids=torch.tensor(
        np.broadcast_to(segments, ids.shape).astype(np.int64)
      ),
    )
  found = scores('joint', asked, read, params)
  text = np.asarray(network.text_mask(read, config.separator_id))[:, 0]
  assert text.sum() > 20
  for ours, theirs in (
    (found.start, wanted.start_logits),
    (found.end, wanted.end_logits),
  ):
    theirs = theirs.numpy()[:, config.question_length :]
    np.testing.assert_allclose(
      np.asarray(ours)[:, 0][text], theirs[text], atol=1e-4, rtol=1e-4
    )
