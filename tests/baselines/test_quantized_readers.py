"""Atlas-Q: GPTQ against its definition, and whole readers through it."""

import functools
import json

import jax
import numpy as np
import pytest

from btr_jax.baselines.quantized import calibration, readers, rounding
from btr_jax.data import encoding, records
from btr_jax.models import model as model_lib
from btr_jax.models import quantized, reader_files
from btr_jax.serving import engine as engine_lib
from btr_jax.tools import main as main_lib
from btr_jax.tools import quantize_reader


@pytest.fixture(scope='module')
def joint(tiny_family):
  return reader_files.load_reader(tiny_family, 'joint')


@pytest.fixture(scope='module')
def batches(joint, tiny_records):
  make = functools.partial(encoding.make_record_batch, joint.vocabulary)
  return [
    make(tiny_records[start : start + 4], joint.limits) for start in (0, 4)
  ]


@pytest.fixture(scope='module')
def in_four_bits(joint, batches):
  config = readers.QuantizationConfig(group_size=16)
  return readers.quantize_params(joint.model, joint.params, config, batches)


def correlated_inputs(seed, count=400, inputs=24):
  generator = np.random.default_rng(seed)
  mixing = generator.normal(size=(6, inputs))
  return generator.normal(size=(count, 6)) @ mixing + 0.1 * generator.normal(
    size=(count, inputs)
  )


@pytest.mark.parametrize('bits', [4, 8])
@pytest.mark.parametrize('seed', [0, 1])
def test_gptq_keeps_outputs_better_than_rounding(bits, seed):
  inputs = correlated_inputs(seed)
  matrix = np.random.default_rng(seed + 9).normal(size=(24, 10))
  moment = inputs.T @ inputs / len(inputs)
  errors = []
  for codes, scales in (
    rounding.gptq(matrix, moment, bits, 12),
    rounding.round_nearest(matrix, bits, 12),
  ):
    restored = rounding.restored(codes, scales)
    share = rounding.output_error(matrix, restored, moment)
    # The definition: through the inputs themselves.
    lost = inputs @ (matrix - restored)
    np.testing.assert_allclose(
      share, np.sum(lost**2) / np.sum((inputs @ matrix) ** 2), rtol=1e-6
    )
    errors.append(share)
  assert errors[0] < 0.6 * errors[1]


def test_gptq_is_the_greedy_least_squares_it_stands_for():
  """Each step against a fit of all that is left, solved anew."""
  inputs = correlated_inputs(3, inputs=8)
  matrix = np.random.default_rng(4).normal(size=(8, 3))
  moment = inputs.T @ inputs / len(inputs)
  moment += 1e-9 * np.eye(8)  # as damping=1e-9 of the mean below
  codes, scales = rounding.gptq(matrix, moment, 4, 8, damping=0.0)
  order = np.argsort(-np.diag(moment), kind='stable')
  left = matrix.copy()
  for place, row in enumerate(order):
    wanted = np.clip(np.rint(left[row] / scales[0]), -8, 7)
    np.testing.assert_array_equal(codes[row], wanted)
    lost = left[row] - wanted * scales[0]
    rest = order[place + 1 :]
    if len(rest):
      # What the rest must add so that the outputs change least.
      left[rest] += np.linalg.solve(
        moment[np.ix_(rest, rest)], np.outer(moment[rest, row], lost)
      )


def test_uncorrelated_inputs_leave_nothing_to_make_up():
  matrix = np.random.default_rng(0).normal(size=(16, 5))
  moment = np.diag(np.linspace(1.0, 2.0, 16))
  for one, other in zip(
    rounding.gptq(matrix, moment, 4, 8),
    rounding.round_nearest(matrix, 4, 8),
    strict=True,
  ):
    np.testing.assert_array_equal(one, other)


def test_a_dead_input_and_a_group_of_zeros():
  matrix = np.random.default_rng(0).normal(size=(8, 3))
  matrix[4:] = 0
  moment = np.diag([1.0, 0.0, 2.0, 1.0, 0.0, 1.0, 1.0, 1.0])
  codes, scales = rounding.gptq(matrix, moment, 4, 4)
  assert np.isfinite(scales).all() and (scales > 0).all()
  assert not codes[4:].any() and codes[:4].any()


@pytest.mark.parametrize(
  ('inputs', 'group_size', 'expected'),
  [(192, 128, 96), (128, 128, 128), (100, 128, 100), (7, 4, 1)],
)
def test_groups_are_equal(inputs, group_size, expected):
  assert rounding.largest_group(inputs, group_size) == expected


def test_moments_are_those_of_the_real_tokens(joint, batches):
  """Of the first layer, from the embedding by hand."""
  found = calibration.Calibrator(joint.model, batches).moments(joint.params)
  embedding = np.asarray(joint.params['token_embedder']['embedding'])
  scale = joint.params['encoder']['layers_0']['pre_attention_layer_norm']
  rows = []
  for batch in batches:
    passages = batch['passage_tokens']
    questions = np.repeat(
      batch['question_tokens'][:, None], passages.shape[1], 1
    )
    tokens = np.concatenate([questions, passages], -1).ravel()
    rows.append(embedding[tokens[tokens != 0]])
  states = np.concatenate(rows)
  normed = states / np.sqrt(np.mean(states**2, -1, keepdims=True) + 1e-6)
  normed = normed * np.asarray(scale['scale'])
  wanted = normed.T @ normed / len(normed)
  for part in ('query', 'key', 'value'):
    np.testing.assert_allclose(
      found[f'encoder/layers_0/attention/{part}/kernel'], wanted, atol=1e-5
    )
  flat = model_lib.flat_params(joint.params)
  assert set(found) == {name for name in flat if name.endswith('/kernel')}


def test_masks_of_the_decoder_leave_padding_out(joint, batches):
  """Tokens that count: of answers, and of the memory."""
  batch = batches[0]
  _, counts = calibration._run(joint.model, joint.params, batch)
  answers = int(batch['decoder_loss_weights'].sum())
  passages = batch['passage_tokens']
  present = (passages != 0).any(-1).sum(-1)
  memory = int(
    (passages != 0).sum()
    + ((batch['question_tokens'] != 0).sum(-1) * present).sum()
  )
  assert answers < batch['decoder_loss_weights'].size
  layer = 'decoder/layers_1'
  expected = {
    'self_attention/key': answers,
    'encoder_decoder_attention/query': answers,
    'encoder_decoder_attention/key': memory,
    'encoder_decoder_attention/value': memory,
    'encoder_decoder_attention/out': answers,
    'mlp/wo': answers,
  }
  for part, tokens in expected.items():
    assert int(counts[f'{layer}/{part}']) == tokens


def test_a_reader_in_four_bits_loses_less_by_gptq(in_four_bits):
  _, reports = in_four_bits
  assert sum(r.error < r.nearest_error for r in reports) > 0.9 * len(reports)
  assert sum(r.error for r in reports) < 0.7 * sum(
    r.nearest_error for r in reports
  )


def test_the_engine_reads_codes_as_the_matrices_they_mean(
  joint, in_four_bits, tiny_records, tmp_path
):
  """Through the file and the engine, against parameters in float32."""
  params, _ = in_four_bits
  reader_files.save_reader(
    tmp_path / 'q',
    joint.config,
    joint.limits,
    params,
    joint.vocabulary.path,
  )
  reader = reader_files.load_reader(tmp_path / 'q')
  batch = encoding.make_record_batch(
    reader.vocabulary, tiny_records[:2], reader.limits
  )
  states = [
    jax.jit(lambda p, b: reader.model.encode(p, b).states)(given, batch)
    for given in (reader.params, quantized.dequantize_params(reader.params))
  ]
  np.testing.assert_allclose(*states, rtol=1e-5, atol=1e-5)
  engine = engine_lib.Engine(reader, mode='joint')
  features = engine.features.shapes(1, engine.features.lengths[0])
  programs = engine._programs
  answer = jax.eval_shape(programs.answer, programs.params, features)
  assert answer.shape == (1, reader.limits.answer_length)
  held = programs.params['encoder']['layers_0']['mlp']['wo']['kernel']
  assert held['codes'].dtype == np.uint8


def test_sequential_measures_behind_what_is_quantized(
  joint, batches, in_four_bits
):
  config = readers.QuantizationConfig(group_size=16, sequential=True)
  params, reports = readers.quantize_params(
    joint.model, joint.params, config, batches
  )
  once, _ = in_four_bits
  first, last = 'encoder/layers_0/', 'decoder/layers_1/'
  flat, other = map(model_lib.flat_params, (params, once))
  same = {
    name: np.array_equal(flat[name], other[name])
    for name in flat
    if name.endswith('/codes')
  }
  # Before the first layer nothing is quantized; behind it, something is.
  assert all(same[name] for name in same if name.startswith(first))
  assert not all(same[name] for name in same if name.startswith(last))
  assert len(reports) == len(same)


def test_what_cannot_be_quantized_is_refused(joint, in_four_bits, batches):
  config = readers.QuantizationConfig(method='nearest')
  with pytest.raises(ValueError, match='quantized already'):
    readers.quantize_params(joint.model, in_four_bits[0], config)
  with pytest.raises(ValueError, match='calibration questions'):
    readers.quantize_params(
      joint.model, joint.params, readers.QuantizationConfig()
    )
  with pytest.raises(ValueError, match='bits is 3'):
    readers.QuantizationConfig(bits=3)
  with pytest.raises(ValueError, match='no meaning'):
    readers.QuantizationConfig(method='nearest', sequential=True)
  unanswered = {
    name: value
    for name, value in batches[0].items()
    if not name.startswith('decoder_')
  }
  with pytest.raises(ValueError, match='no answers'):
    calibration.Calibrator(joint.model, [unanswered])


def test_calibration_questions_are_drawn_by_the_seed(
  joint, tiny_records, tmp_path
):
  questions = tmp_path / 'questions.jsonl'
  records.write_records(questions, tiny_records)
  drawn = [
    quantize_reader.calibration_batches(joint, str(questions), 11, seed)
    for seed in (0, 0, 1)
  ]
  assert [len(batches) for batches in drawn] == [1, 1, 1]
  tokens = [batches[0]['question_tokens'] for batches in drawn]
  assert len(tokens[0]) == 8
  np.testing.assert_array_equal(tokens[0], tokens[1])
  assert not np.array_equal(tokens[0], tokens[2])


def test_the_command_writes_a_reader(tmp_path, tiny_family, capsys):
  command = ['quantize-reader', tiny_family, '--output', tmp_path / 'q']
  command += ['--method', 'nearest', '--bits', 8, '--embedding-bits', 8]
  assert main_lib.main([str(part) for part in command]) == 0
  record = json.loads(capsys.readouterr().out.splitlines()[-1])
  file = tmp_path / 'q' / 'model.safetensors'
  assert record['model_bytes'] == file.stat().st_size
  # One byte a weight and float16 scales, against four.
  assert record['model_bytes'] < 0.4 * record['original_bytes']
  assert record['calibration_questions'] == 0
  reader = reader_files.load_reader(tmp_path / 'q')
  assert reader.provenance['quantization']['bits'] == 8
  assert reader.params['token_embedder']['embedding']['codes'].dtype == np.int8
  assert main_lib.main([str(part) for part in command]) == 2
  assert 'holds a reader already' in capsys.readouterr().err
