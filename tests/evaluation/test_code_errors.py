"""`btr study-codes`: rows that agree with what the codecs do, and bad input."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from btr_jax import config as config_lib
from btr_jax.data import encoding, prompts, records
from btr_jax.evaluation import answer_metrics, code_answers, code_errors
from btr_jax.models import reader_files, token_codec
from btr_jax.tools import common, study_codes


@pytest.fixture(scope='module')
def reader(tiny_family):
  return reader_files.load_reader(tiny_family, mode='decomposed')


@pytest.fixture(scope='module')
def stored(reader, tiny_passages):
  """The same few passages twice: what a code is fitted to, and measured on."""
  pairs = [(p.title, p.text) for p in tiny_passages[:24]]
  tokens = encoding.encode_passages(reader.vocabulary, pairs, 20)
  return code_errors.StoredStates(reader, np.split(tokens, 3))


def test_settings_are_codecs_and_differ():
  found = code_errors.dials(512)
  assert len({dial.name for dial in found}) == len(found)
  layouts = {
    dial.codec.num_bits or 512
    for dial in found
    if dial.codec.kind == 'residual'
  }
  # An eighth to eight bits a dimension, and 16 bytes at 768 dimensions.
  assert {64, 72, 128, 256, 512, 1024, 2048, 4096} <= layouts


def test_errors_of_the_sign_are_those_of_its_definition(reader, stored):
  """By hand: y's sign, one level for all, read through the norm."""
  weight = code_errors.split_norm_scale(reader.params, 2)
  dial = code_errors.Dial('sign', config_lib.CodecConfig('sign'))
  (row,) = code_errors.measure(reader, stored, stored, weight, [dial])
  lost = whole = 0.0
  for tokens in stored.batches:
    real = tokens != 0
    states = stored.of(tokens)[real].astype(np.float64)
    y = weight * states / np.sqrt(np.mean(states**2, -1, keepdims=True) + 1e-6)
    found = weight * np.where(states > 0, 1.0, -1.0)
    lost += np.square(found - y).sum()
    whole += np.square(y).sum()
  assert row['read'] == pytest.approx(lost / whole, rel=1e-4)
  assert row['bytes_per_token'] == reader.config.embed_dim // 8


def test_more_bits_lose_less_and_floats_next_to_nothing(reader, stored):
  weight = code_errors.split_norm_scale(reader.params, 2)
  dials = code_errors.dials(reader.config.embed_dim)
  rows = {
    row['code']: row
    for row in code_errors.measure(reader, stored, stored, weight, dials)
  }
  embed = reader.config.embed_dim
  assert rows['float']['read'] < 1e-4
  errors = [
    rows[f'residual, {embed * bits} bits{each}']['read']
    for bits, each in ((1, ''), (2, ', 2 bits each'), (4, ', 4 bits each'))
  ]
  assert errors[0] > errors[1] > errors[2]
  assert errors[0] < rows['calibrated']['read']
  for dial in dials:
    layout = token_codec.codec_layout(
      config_lib.ReaderConfig.from_dict(
        {**reader.config.to_dict(), 'codec': dial.codec}
      )
    )
    stored_bytes = layout.bits_bytes + layout.scale_bytes
    assert rows[dial.name]['bytes_per_token'] == stored_bytes


def test_answers_through_floats_are_those_of_the_reader(reader, tiny_records):
  """And few bits, which nothing was trained for, are not free."""
  questions = tiny_records[:10]  # The second batch is not full.
  answers = code_answers.CodeAnswers(reader, questions)
  found = answers.score(config_lib.CodecConfig('float'), {})
  batch = jax.tree.map(
    jnp.asarray,
    encoding.make_record_batch(reader.vocabulary, questions, reader.limits),
  )
  scores = np.asarray(reader.model.score_batch(reader.params, batch))
  assert found['nats'] == pytest.approx(-scores.mean(), rel=1e-2)
  texts = [
    prompts.parse_answer(reader.vocabulary.decode(row))
    for row in np.asarray(reader.model.predict_batch(reader.params, batch))
  ]
  expected = answer_metrics.answer_scores(
    texts, [record.answers for record in questions]
  )
  assert found['em'] == expected['em'] and found['f1'] == expected['f1']
  signs = answers.score(config_lib.CodecConfig('sign'), {})
  assert signs['nats'] != pytest.approx(found['nats'], rel=1e-3)
  with pytest.raises(ValueError, match='no questions'):
    code_answers.CodeAnswers(reader, [])


def test_no_passages_are_refused(reader):
  with pytest.raises(ValueError, match='no passages'):
    code_errors.StoredStates(reader, [])


def test_the_command_records_and_draws(
  tiny_family, tiny_passages, tiny_records, tmp_path, capsys
):
  pytest.importorskip('faiss')
  corpus = tmp_path / 'passages.jsonl'
  records.write_passages(corpus, tiny_passages)
  argv = ['--reader', str(tiny_family), '--corpus', str(corpus)]
  # Each compiles a reader.
  argv += ['--codes', 'calibrated', 'residual, 16 bits', 'residual, 8 bits']
  output, plot = tmp_path / 'codes.json', tmp_path / 'codes.png'
  argv += ['--length', '20', '--output', str(output), '--plot', str(plot)]
  questions = tmp_path / 'questions.jsonl'
  records.write_records(questions, tiny_records)
  asked = ['--questions', str(questions), '--answers', '3']
  assert common.run(study_codes.main, [*argv, *asked, '--passages', '24']) == 0
  record = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
  assert record == json.loads(output.read_text())
  assert record['tokens']['fit'] > 3 * record['tokens']['test'] > 0
  assert all(0 <= row['em'] <= 100 for row in record['rows'])
  assert [row['code'] for row in record['rows']] == argv[5:8]
  assert plot.read_bytes().startswith(b'\x89PNG')
  for wrong, message in (('5', 'at least 6'), ('99999', 'the corpus has')):
    assert common.run(study_codes.main, [*argv, '--passages', wrong]) == 2
    assert message in capsys.readouterr().err
  assert common.run(study_codes.main, [*argv, '--codes', 'zip']) == 2
  assert "'zip'; expected of: float; sign; calib" in capsys.readouterr().err


def test_the_papers_bits_by_a_linear_map_beat_a_level_each(reader, stored):
  """Least squares over all bits cannot lose to one bit, where it is fitted."""
  pytest.importorskip('faiss')
  from btr_jax.evaluation import code_rivals

  weight = code_errors.split_norm_scale(reader.params, 2)
  fit = code_rivals._linear_map(stored, weight)
  level = code_rivals._level_per_dimension(stored, weight)
  lost = {}
  for name, decode in (('map', fit), ('level', level)):
    lost[name] = sum(
      np.square(decode(unit, ids) - unit).sum() for unit, ids in stored.real()
    )
  assert lost['map'] < lost['level']
  assert jnp.isfinite(lost['map'])
