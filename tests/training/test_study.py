"""Variants of training: what they set, one run of seconds, going on."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from btr_jax import config as config_lib
from btr_jax import train
from btr_jax.data.benchmarks import task_files
from btr_jax.evaluation import task_metrics
from btr_jax.evaluation.study import intervals
from btr_jax.models import model as model_lib
from btr_jax.models import reader_files
from btr_jax.tools import common, study_training
from btr_jax.training import sources
from btr_jax.training.study import answers, results, runs, variants

pytestmark = pytest.mark.usefixtures('quick_compilation')


@pytest.fixture
def given(spread_gin):
  train.parse_config([str(spread_gin)], ["MODEL_DIR = 'x'", 'TRAIN_STEPS = 2'])
  return train.build_arguments()


@pytest.fixture
def start_from(given, prepared_folder, toy_limits, tmp_path):
  """A joint reader without training."""
  model = model_lib.BtrModel(given['reader'], toy_limits, stage=1)
  shapes = jax.eval_shape(
    lambda: model.get_initial_variables(jax.random.key(0), model.input_shapes())
  )['params']
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda leaf: rng.normal(0.0, 0.3, leaf.shape).astype(np.float32), shapes
  )
  return reader_files.save_reader(
    tmp_path / 'start',
    given['reader'],
    toy_limits,
    params,
    prepared_folder / 'vocabulary.model',
  )


def test_a_variant_differs_from_its_baseline_in_one_thing(given, start_from):
  known = variants.variants()
  made, prints = {}, {}
  for name, variant in known.items():
    arguments = variants.training_arguments(variant, given, seed=7)
    assert arguments['recipe'].seed == 7
    made[name] = {
      **arguments['recipe'].settings(variant.stage),
      **arguments['reader'].to_dict()['codec'],
    }
    prints[name] = variants.fingerprint(
      arguments, start_from, answers.Questions(20)
    )
  assert len(set(prints.values())) == len(known)
  assert len({variant.slug for variant in known.values()}) == len(known)
  for name, variant in known.items():
    if variant.against:
      own, other = made[name].items(), made[variant.against].items()
      names = {key for key, _ in own ^ other if key != 'num_bits'}
      assert len(names) == 1, name
  assert made['calibrated, no recovery']['recovery_weight'] == 0.0
  assert made['residual, annealed']['binarizer'] == 'annealed'
  assert made['calibrated, wiring bits']['wiring'] == 'bits'
  assert made['distill none']['distill_tokens'] == 'none'


def test_what_cannot_be_annealed_is_told_before_training(spread_gin):
  flags = ["MODEL_DIR = 'x'", 'CODEC_BITS_PER_DIM = 2', 'CODEC_BITS = 16']
  train.parse_config([str(spread_gin)], flags)
  given = train.build_arguments()
  variants.training_arguments(variants.variants()['residual'], given, 0)
  with pytest.raises(ValueError, match='CODEC_BITS_PER_DIM=1'):
    variants.training_arguments(
      variants.variants()['residual, annealed'], given, 0
    )


def test_intervals_draw_seeds_and_questions():
  rng = np.random.default_rng(0)
  questions = rng.normal(size=(1, 400))
  one = intervals.of_seeds(questions)
  assert one == pytest.approx(intervals.of_mean(questions[0]), abs=0.03)
  # Seeds that differ by more than questions do widen it.
  wide = intervals.of_seeds(questions + np.array([[-1.0], [0.0], [1.0]]))
  assert wide[1] - wide[0] > 3 * (one[1] - one[0])
  assert intervals.of_seeds(np.full((2, 3), 5.0)) == (5.0, 5.0)
  with pytest.raises(ValueError, match='at least one seed'):
    intervals.of_seeds(np.zeros((0, 3)))


@pytest.mark.slow
def test_a_study_is_trained_once(
  spread_gin, start_from, tmp_path, capsys, monkeypatch
):
  output = tmp_path / 'out' / 'study.json'

  def run(*more, status=0):
    argv = ['--reader', str(start_from), '--output', str(output)]
    argv += ['--seeds', '3', '--questions', '5', *more]
    argv += [f'--gin_file={spread_gin}', '--gin.TRAIN_STEPS=2']
    assert common.run(study_training.main, argv) == status
    return capsys.readouterr()

  annealed = 'calibrated, annealed'
  shown = run('--variants', 'distill', 'calibrated', '--dry-run').err
  assert '10 of 10 runs' in shown and 'distill random, seed 3' in shown
  shown = run('--variants', annealed, 'distill all')
  assert '2 of 2 runs to train' in shown.err
  assert not (tmp_path / 'out' / 'study_runs').exists()

  trained, real = [], runs.run_one

  def run_one(variant, *rest):
    trained.append(variant.name)
    return real(variant, *rest)

  monkeypatch.setattr(runs, 'run_one', run_one)
  shown = run('--variants', annealed, 'distill all')
  assert '0 of 2 runs to train' in shown.err and not trained
  # 'calibrated' as a name would take all that begin with it.
  pair = {name: variants.variants()[name] for name in ('calibrated', annealed)}
  pair['distill all'] = variants.variants()['distill all']
  monkeypatch.setattr(variants, 'variants', lambda: pair)
  run()
  assert trained == ['calibrated']

  record = json.loads(output.read_text())
  rows = {row['variant']: row for row in record['rows']}
  assert list(rows) == list(pair)
  assert rows[annealed]['differences'].keys() == {'em', 'f1'}
  assert rows['calibrated']['differences'] == {}
  for name, row in rows.items():
    values = {'distill_loss'} if row['stage'] == 2 else {'read_error'}
    assert values < set(row['values']), name
    assert all(np.isfinite(value) for value in row['values'].values())
    assert row['scores']['em']['low'] <= row['scores']['em']['mean']
  for result in record['results']:
    assert len(result['scores']['em'].split()) == 5
  table = output.with_suffix('.md').read_text()
  assert '| calibrated, annealed | calibrated | 4 | 1 |' in table
  assert output.with_suffix('.png').read_bytes().startswith(b'\x89PNG')

  shown = run('--variants', annealed, '--gin.LEARNING_RATE=0.1', status=2)
  assert 'with other settings' in shown.err
  shown = run('--variants', 'calibrate', status=2)
  assert 'expected one of, or the beginning of: calibrated;' in shown.err


@pytest.mark.parametrize('wiring', ['recovered', 'bits'])
def test_errors_of_codes_are_relative(given, start_from, toy_limits, wiring):
  """`read_error` and `stream_error` against NumPy."""
  reader = reader_files.load_reader(start_from, 'binary', 'float')
  config = dataclasses.replace(
    reader.config, codec=config_lib.CodecConfig('calibrated', wiring=wiring)
  )
  module = model_lib.BtrModel(config, toy_limits, stage=3).module
  tokens = np.random.default_rng(0).integers(2, 200, (3, 6)).astype(np.int32)
  tokens[1, 4:] = 0
  variables = {'params': reader.params}
  found = module.apply(
    variables, jnp.asarray(tokens), method=answers.codec_errors
  )

  states = module.apply(variables, jnp.asarray(tokens), method='passage_states')
  layer = reader.params['encoder']['layers_1']
  weight = np.asarray(layer['pre_attention_layer_norm']['scale'], np.float64)
  x = np.asarray(states, np.float64)[tokens != 0]

  def rms(states):
    return np.sqrt(np.mean(states**2, -1, keepdims=True) + 1e-6)

  read = weight * x / rms(x)
  safe = np.where(np.abs(weight) < 1e-3, 1e-3, weight)
  decoded = np.where(read > 0, 1, -1) * rms(x) / safe
  found_read = weight * decoded / rms(decoded)
  pairs = (
    (found_read if wiring == 'recovered' else np.where(read > 0, 1, -1), read),
    (decoded / rms(x), x / rms(x)),
  )
  expected = [
    np.sum(v**2) for made, wanted in pairs for v in (made - wanted, wanted)
  ]
  np.testing.assert_allclose(found, expected, rtol=2e-2)


def test_codes_are_named_as_study_codes_names_them(given):
  embed_dim = given['reader'].embed_dim
  chosen = study_training.chosen_variants(
    None, ['residual, 16 bits, 2 bits each', 'float'], embed_dim
  )
  float_code, residual = chosen
  assert float_code.name == 'code float' and float_code.against is None
  assert residual.against == 'code float'
  arguments = variants.training_arguments(residual, given, 0)
  codec = arguments['reader'].codec
  assert (codec.num_bits, codec.bits_per_dim, codec.scale_bits) == (16, 2, 8)
  assert arguments['recipe'].codec_prediction == 'both'
  both = study_training.chosen_variants(['sign'], ['float'], embed_dim)
  assert [one.name for one in both][-1] == 'code float' and len(both) == 4
  with pytest.raises(ValueError, match='expected of: float; sign'):
    study_training.chosen_variants(None, ['residual, 17 bits'], embed_dim)


def test_questions_alone_are_what_the_first_studies_had(toy_limits):
  assert answers.Questions(20).settings() == 20
  longer = answers.Questions(20, 'test', 1, 1, 24)
  assert longer.settings() != answers.Questions(20, 'test', 1, 1).settings()
  assert answers.Questions(20).limits(toy_limits) == toy_limits
  assert longer.limits(toy_limits).num_passages == 1
  assert longer.limits(toy_limits).passage_length == 24


def test_questions_of_the_whole_split(given):
  data, limits = given['data'], given['limits']
  (all_,) = answers.Questions(99).batches(data, limits, 99)
  total = np.count_nonzero(all_['decoder_loss_weights'].sum(axis=-1))
  assert total >= 5
  found = list(answers.Questions(3, every=2).batches(data, limits, 2))
  assert [len(batch['question_tokens']) for batch in found] == [2, 2]
  for name, array in all_.items():
    rows = np.concatenate([batch[name] for batch in found])
    np.testing.assert_array_equal(rows[:3], array[[0, 2, 4]])
    assert not rows[3].any()


@pytest.mark.slow
def test_codes_beside_a_joint_reader(spread_gin, start_from, tmp_path, capsys):
  output = tmp_path / 'codes.json'
  # Its own lengths do not matter: all read the same.
  joint = reader_files.load_reader(start_from)
  other = reader_files.save_reader(
    tmp_path / 'joint',
    joint.config,
    dataclasses.replace(joint.limits, num_passages=1, passage_length=8),
    joint.params,
    joint.vocabulary.path,
  )
  argv = ['--reader', str(start_from), '--joint', str(other)]
  argv += ['--output', str(output), '--seeds', '3', '--questions', '4']
  argv += ['--codes', 'residual, 16 bits', '--split', 'validation']
  argv += [f'--gin_file={spread_gin}', '--gin.TRAIN_STEPS=1']
  assert common.run(study_training.main, argv) == 0
  capsys.readouterr()
  record = json.loads(output.read_text())
  joint, code = record['rows']
  assert (joint['variant'], joint['bytes_per_token']) == ('joint', None)
  # Two bytes of signs, one each of the token's rms and amplitude.
  assert (code['variant'], code['bytes_per_token']) == (
    'code residual, 16 bits',
    4,
  )
  assert record['answered']['split'] == 'validation'
  assert '4 validation questions' in output.with_suffix('.md').read_text()
  assert output.with_suffix('.png').read_bytes().startswith(b'\x89PNG')
  # Nothing is answered twice, and other questions are not mixed with these.
  assert common.run(study_training.main, argv) == 0
  assert 'the joint reader' not in capsys.readouterr().err
  for changed in (
    [*argv, '--questions', '3'],
    [*argv, '--gin.LEARNING_RATE=0.1'],
    # Also where the record has no row of that name.
    [*argv, '--questions', '3', '--codes', 'float'],
  ):
    assert common.run(study_training.main, changed) == 2
    assert 'on other questions' in capsys.readouterr().err


def test_shares_of_the_joint_reader():
  def result(name, seed, scores):
    return {
      'variant': name,
      'seed': seed,
      'values': {'loss': 1.0},
      'scores': {'em': scores},
    }

  known = {'a': variants.Variant('a', 3), 'b': variants.Variant('b', 3, 'a')}
  rows = results.summary(
    [
      result('joint', 0, '100 100 100 100'),
      result('a', 0, '100 0 0 0'),
      result('a', 1, '100 100 0 0'),
      result('b', 1, '0 100 0 100'),
    ],
    known,
  )
  joint, first, second = rows
  assert joint['of_joint'] == {}
  assert first['of_joint']['em']['mean'] == 37.5
  assert second['of_joint']['em']['mean'] == 50.0
  assert first['scores']['em']['by_seed'] == [25.0, 50.0]
  assert second['differences']['em']['mean'] == 0.0


def test_a_run_that_diverges_does_not_stop_the_others(
  spread_gin, start_from, tmp_path, capsys, monkeypatch
):
  def run_one(variant, arguments, start_from, folder, questions, stop):
    folder.mkdir(parents=True)
    if variant.name == 'sign':
      raise FloatingPointError('The loss is nan.')
    return {
      'variant': variant.name,
      'seed': arguments['recipe'].seed,
      'values': {'loss': 1.0},
      'scores': {'em': '0 100'},
    }

  monkeypatch.setattr(runs, 'run_one', run_one)
  output = tmp_path / 'study.json'
  argv = ['--reader', str(start_from), '--output', str(output), '--seeds', '0']
  argv += ['--variants', 'sign', f'--gin_file={spread_gin}']
  assert common.run(study_training.main, argv) == 1
  assert 'sign, seed 0: The loss is nan.' in capsys.readouterr().err
  rows = json.loads(output.read_text())['rows']
  names = ['sign, annealed', 'sign, no recovery']
  assert [row['variant'] for row in rows] == names
  assert not (tmp_path / 'study_runs').exists()


def test_what_cannot_be_asked_is_told_before_training():
  class Data(sources.SeqioSource):
    def evaluation(self, split):
      return task_metrics.metric(self.task), ()

  data = Data('squad', files=task_files.TaskFiles('nq', num_passages=4))
  answers.check(data, answers.Questions(3, passages=4))
  with pytest.raises(ValueError, match='prepared with 4'):
    answers.check(data, answers.Questions(3, passages=5))
  with pytest.raises(ValueError, match='scored by letters'):
    answers.check(Data('mmlu'), answers.Questions(3))
