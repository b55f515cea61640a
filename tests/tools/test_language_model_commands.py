"""`btr tune-lm` and `btr read-with-lm` on a model of one layer."""

import json

import pytest

pytest.importorskip('tokenizers')


@pytest.fixture
def model(tmp_path, tiny_passages):
  """A folder as transformers writes it, with random weights."""
  import numpy as np
  import tokenizers

  from btr_jax.baselines.language_model import config as config_lib
  from btr_jax.baselines.language_model import names, parameters
  from btr_jax.interop import safetensors_files

  folder = tmp_path / 'tiny-llama'
  folder.mkdir()
  inner = tokenizers.ByteLevelBPETokenizer()
  inner.train_from_iterator(
    [passage.text for passage in tiny_passages],
    vocab_size=300,
    special_tokens=['<|end|>'],
    show_progress=False,
  )
  inner.save(str(folder / 'tokenizer.json'))
  config = config_lib.LanguageModelConfig(300, 16, 1, 2, 1, 8, 24, 256)
  generator = np.random.default_rng(0)
  tensors = {}
  for name, shape in parameters.shapes(config).items():
    values = 0.3 * generator.standard_normal(shape) + name.endswith('/scale')
    values = values.T if name.endswith('/kernel') else values
    tensors[names.to_hugging_face(name)] = values.astype(np.float32)
  safetensors_files.write_file(folder / 'model.safetensors', tensors)
  values = {
    'model_type': 'llama',
    'vocab_size': 300,
    'hidden_size': 16,
    'num_hidden_layers': 1,
    'num_attention_heads': 2,
    'num_key_value_heads': 1,
    'intermediate_size': 24,
    'max_position_embeddings': 256,
    'rms_norm_eps': 1e-5,
    'eos_token_id': 0,
  }
  (folder / 'config.json').write_text(json.dumps(values))
  return folder


def test_tuned_and_read(last_json, model, tmp_path):
  common = ['--model', model, '--passages', 1, '--passage-length', 8]
  tuned = last_json(
    *('tune-lm', *common, '--output', tmp_path / 'adapter', '--split', 'test'),
    *('--steps', 4, '--batch', 2, '--rank', 2, '--learning-rate', 0.01),
  )
  assert tuned['num_examples'] > 0 and tuned['steps'] == 4
  assert (tmp_path / 'adapter' / 'adapter_model.safetensors').is_file()
  # float32, rank 2 times inputs + outputs of the seven matrices.
  ends = (16 + 16) + 2 * (16 + 8) + (16 + 16) + 3 * (16 + 24)
  assert tuned['lora_bytes'] == 4 * 2 * ends
  output, answers = tmp_path / 'record.json', tmp_path / 'answers.jsonl'
  record = last_json(
    *('read-with-lm', *common, '--lora', tmp_path / 'adapter', '--limit', 3),
    *('--output', output, '--answers', answers),
  )
  assert record['num_questions'] == 3 and record['style'] == 'plain'
  assert set(record['scores']) == {'em', 'f1', 'holds_answer'}
  assert record['model_bytes'] == record['stored_bytes'] > 0
  assert json.loads(output.read_text()) == record
  # A report's row of the same model and matrices, and of the model alone.
  import jax

  from btr_jax.evaluation.study import settings
  from btr_jax.tools import report_sources

  setting = settings.Setting(settings.LANGUAGE_MODEL, 1)
  both = report_sources.LanguageModelSource(model, tmp_path / 'adapter', 2)
  alone = report_sources.LanguageModelSource(model, None, 2)
  assert both.fingerprint(setting) != alone.fingerprint(setting)
  started, plain = both.start(setting), alone.start(setting)
  assert started.details['lora'] == 'adapter' and plain.details['lora'] is None
  tuned_params, params = (
    running.engine._answers._model.params for running in (started, plain)
  )
  moved = jax.tree.map(
    lambda one, other: bool((one != other).any()), tuned_params, params
  )
  assert sum(jax.tree.leaves(moved)) == 7  # Matrices of the one layer.
  lines = [json.loads(line) for line in answers.read_text().splitlines()]
  assert [set(line) for line in lines] == [
    {'id', 'question', 'answer', 'gold'}
  ] * 3


@pytest.mark.parametrize(
  'arguments, message',
  [
    (['read-with-lm', '--model', 'none.gguf'], 'there is no such file'),
    (['read-with-lm', '--model', '.'], 'config.json'),
    (
      ['tune-lm', '--model', '.', '--output', 'x', '--lora', 'y'],
      'begins anew',
    ),
    (['tune-lm', '--model', '.', '--output', '.'], 'exists; choose another'),
    (
      ['tune-lm', '--model', '.', '--output', 'x', '--learning-rate', '0'],
      'expected above 0',
    ),
  ],
)
def test_bad_input_is_one_message(
  btr, tmp_path, monkeypatch, arguments, message
):
  monkeypatch.chdir(tmp_path)
  code, _, err = btr(*arguments)
  assert code == 2 and message in err and err.count('\n') == 1
