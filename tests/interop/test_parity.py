"""Logits and answers of converted readers against transformers in torch."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from btr_jax.interop import safetensors_files
from btr_jax.models import reader_files

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings('ignore')]

QUESTION_LENGTH, PASSAGE_LENGTH, ANSWER_LENGTH = 5, 40, 6
# Keywords of transformers' T5Config.
FAMILIES = {
  'flan': dict(feed_forward_proj='gated-gelu', tie_word_embeddings=False),
  'silu': dict(feed_forward_proj='gated-silu', tie_word_embeddings=False),
  'first': dict(feed_forward_proj='relu', tie_word_embeddings=True),
}


def _torch_t5(**options):
  config = transformers.T5Config(
    **{
      **dict(
        vocab_size=240,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=3,
        num_decoder_layers=2,
        num_heads=2,
        dropout_rate=0.0,
        decoder_start_token_id=0,
      ),
      **options,
    }
  )
  torch.manual_seed(0)
  model = transformers.T5ForConditionalGeneration(config).eval()
  if not options['tie_word_embeddings']:
    # transformers 5 ties the head even when told not to: give it its own.
    model.lm_head = torch.nn.Linear(
      config.d_model, config.vocab_size, bias=False
    )
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      if 'layer_norm' in name:
        parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
      elif 'relative_attention_bias' in name:
        parameter.copy_(torch.randn_like(parameter))
  return model


def _save(model, folder, dtype=torch.float32):
  """A folder as of transformers, and the model with the rounded weights."""
  import safetensors.torch

  model.to(dtype).float()
  state = {k: v.to(dtype).clone() for k, v in model.state_dict().items()}
  folder.mkdir()
  safetensors.torch.save_file(
    state, folder / 'model.safetensors', metadata={'format': 'pt'}
  )
  (folder / 'config.json').write_text(model.config.to_json_string())


def _batch(num_passages, vocab_size=240):
  generator = np.random.default_rng(1)
  question = generator.integers(2, vocab_size, (2, QUESTION_LENGTH))
  passages = generator.integers(
    2, vocab_size, (2, num_passages, PASSAGE_LENGTH)
  )
  question[0, :2] = 0
  passages[1, -1, 30:] = 0
  answers = generator.integers(2, vocab_size, (2, ANSWER_LENGTH))
  answers[:, 0] = 0
  return [np.asarray(x, np.int32) for x in (question, passages, answers)]


def _their_logits(model, question, passages, answers):
  """FiD: every passage with its question, one memory for the decoder.

  Padding is cut out before encoding: transformers' relative positions would
  count it.
  """
  memories = []
  with torch.no_grad():
    for one_question, its_passages in zip(question, passages, strict=True):
      states = []
      for passage in its_passages:
        ids = np.concatenate([one_question, passage])
        ids = torch.tensor(ids[ids != 0]).long()[None]
        states.append(model.encoder(input_ids=ids).last_hidden_state[0])
      memories.append(torch.cat(states)[None])
    return np.concatenate(
      [
        model(
          encoder_outputs=(memory,),
          decoder_input_ids=torch.tensor(answer).long()[None],
        ).logits.numpy()
        for memory, answer in zip(memories, answers, strict=True)
      ]
    )


def _our_logits(folder, question, passages, answers):
  reader = reader_files.load_reader(folder, mode='joint')
  logits, _ = reader.model.module.apply(
    {'params': reader.params},
    jnp.asarray(question),
    jnp.asarray(passages),
    jnp.asarray(answers),
    'joint',
  )
  return np.asarray(logits)


@pytest.mark.parametrize('num_passages', [1, 3])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
@pytest.mark.parametrize('family', FAMILIES)
def test_logits_equal_those_of_transformers(
  tmp_path, converted, tiny_vocabulary_file, family, dtype, num_passages
):
  theirs = _torch_t5(**FAMILIES[family])
  _save(theirs, tmp_path / 'theirs', getattr(torch, dtype))
  flags = ('--vocabulary', tiny_vocabulary_file)
  record = converted(tmp_path / 'theirs', tmp_path / 'reader', *flags)
  assert list(record['dtypes']) == [dtype]
  batch = _batch(num_passages)
  np.testing.assert_allclose(
    _our_logits(tmp_path / 'reader', *batch),
    _their_logits(theirs, *batch),
    rtol=0,
    atol=1e-4,
  )


def test_what_transformers_5_ties_is_computed_as_it_does(
  tmp_path, converted, tiny_vocabulary_file
):
  """T5 1.1 built from nothing: one matrix, logits not scaled."""
  config = _torch_t5(**FAMILIES['flan']).config
  torch.manual_seed(1)
  theirs = transformers.T5ForConditionalGeneration(config).eval()
  if theirs.lm_head.weight is not theirs.shared.weight:
    pytest.skip(f'transformers {transformers.__version__} does not tie it')
  theirs.save_pretrained(tmp_path / 'theirs')
  flags = ('--vocabulary', tiny_vocabulary_file)
  record = converted(tmp_path / 'theirs', tmp_path / 'reader', *flags)
  assert not record['config']['logits_via_embedding']
  batch = _batch(1)
  np.testing.assert_allclose(
    _our_logits(tmp_path / 'reader', *batch),
    _their_logits(theirs, *batch),
    rtol=0,
    atol=1e-4,
  )


def test_logits_equal_those_of_atlas(tmp_path, converted, tiny_vocabulary_file):
  """Atlas's reader is transformers' T5 over several passages."""
  theirs = _torch_t5(**FAMILIES['flan'])
  model = {f'reader.{k}': v for k, v in theirs.state_dict().items()}
  torch.save({'model': model, 'step': 3}, tmp_path / 'model.pth.tar')
  flags = ('--vocabulary', tiny_vocabulary_file)
  converted(tmp_path / 'model.pth.tar', tmp_path / 'reader', *flags)
  batch = _batch(3)
  np.testing.assert_allclose(
    _our_logits(tmp_path / 'reader', *batch),
    _their_logits(theirs, *batch),
    rtol=0,
    atol=1e-4,
  )


def test_their_tokenizer_gives_our_ids(
  tmp_path, converted, tiny_family, tiny_vocabulary
):
  converted(tiny_family / 'joint', tmp_path / 'out', '--to', 'huggingface')
  tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / 'out')
  text = 'question: What is the capital of Peru? answer: <extra_id_0>'
  assert tokenizer(text).input_ids[:-1] == tiny_vocabulary.encode(text)


@pytest.mark.parametrize('family', ['flan', 'first'])
def test_transformers_loads_what_is_written(
  tmp_path, converted, tiny_vocabulary_file, family
):
  theirs = _torch_t5(**FAMILIES[family])
  _save(theirs, tmp_path / 'theirs')
  flags = ('--vocabulary', tiny_vocabulary_file)
  converted(tmp_path / 'theirs', tmp_path / 'reader', *flags)
  shards = ('--max-shard-size', 40_000)
  converted(
    tmp_path / 'reader', tmp_path / 'back', '--to', 'huggingface', *shards
  )
  again = transformers.T5ForConditionalGeneration.from_pretrained(
    tmp_path / 'back'
  ).eval()
  batch = _batch(1)
  np.testing.assert_array_equal(
    _their_logits(again, *batch), _their_logits(theirs, *batch)
  )


@pytest.mark.slow
def test_flan_t5_small_answers_as_in_transformers(
  shared_data, tmp_path, converted, dequantised
):
  """Real weights: greedy answers and logits of several prompts."""
  source = shared_data / 'models' / 'flan-t5-small'
  weights = source / 'model.int8.safetensors.xz'
  reference = shared_data / 'reference' / 'flan_t5_small_float_reference.json'
  if not weights.is_file() or not reference.is_file():
    pytest.skip(f'no Flan-T5-small in {shared_data}')
  tensors = dequantised(weights)
  folder = tmp_path / 'flan'
  folder.mkdir()
  safetensors_files.write_folder(folder, tensors, 10**8)
  (folder / 'config.json').write_text((source / 'config.json').read_text())
  vocabulary = shared_data / 'vocab' / 't5_spiece_32000.model'
  (folder / 'spiece.model').write_bytes(vocabulary.read_bytes())
  record = converted(folder, tmp_path / 'reader')
  assert record['parameters'] == sum(v.size for v in tensors.values())
  assert record['config']['split_layer'] == 6

  cases = json.loads(reference.read_text())['cases']
  head = 4  # Ids that stand for the question; the rest is one passage.
  longest = max(len(case['input_ids']) for case in cases) - head
  question = np.array([case['input_ids'][:head] for case in cases], np.int32)
  passages = np.zeros((len(cases), 1, longest), np.int32)
  for row, case in zip(passages, cases, strict=True):
    row[0, : len(case['input_ids']) - head] = case['input_ids'][head:]
  reader = reader_files.load_reader(tmp_path / 'reader', mode='joint')
  max_length = 12
  encoded = reader.model.encode(
    reader.params,
    {
      'question_tokens': jnp.asarray(question),
      'passage_tokens': jnp.asarray(passages),
    },
  )
  ours, _ = reader.model.decode(reader.params, encoded, max_length)

  values = json.loads((source / 'config.json').read_text())
  values.pop('architecture')
  theirs = _torch_t5(**values)
  state = {name: torch.from_numpy(value) for name, value in tensors.items()}
  for stack in ('encoder', 'decoder'):
    state[f'{stack}.embed_tokens.weight'] = state['shared.weight']
  theirs.load_state_dict(state)
  for row, case in zip(np.asarray(ours), cases, strict=True):
    ids = torch.tensor([case['input_ids']])
    answer = theirs.generate(
      ids, max_new_tokens=max_length, do_sample=False, num_beams=1
    )[0, 1:].numpy()
    expected = case['greedy_ids'][:max_length]
    assert answer[: len(expected)].tolist() == expected, case['prompt']
    assert row[: len(expected)].tolist() == expected, case['prompt']
    assert not row[len(expected) :].any()

  answers = np.zeros((len(cases), max_length), np.int32)
  answers[:, 1:] = np.asarray(ours)[:, :-1]
  np.testing.assert_allclose(
    _our_logits(tmp_path / 'reader', question, passages, answers),
    _their_logits(theirs, question, passages, answers),
    rtol=1e-5,  # Logits reach -70 here, where float32 itself rounds to 4e-6.
    atol=1e-4,
  )
