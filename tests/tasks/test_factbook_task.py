"""The registered task, on a small Factbook."""

import itertools

import pytest

seqio = pytest.importorskip('seqio')


@pytest.fixture(scope='module')
def factbook(tmp_path_factory):
  """The task's module, reading a Factbook of eight countries."""
  from btr_jax.data.factbook import prepare
  from btr_jax.tasks import factbook

  folder = tmp_path_factory.mktemp('data')
  prepared = prepare.prepare(
    folder,
    countries=('pe', 'ci', 'bl', 'ec', 'no', 'sw'),
    vocab_size=1200,
    num_passages=8,
  )
  patch = pytest.MonkeyPatch()
  patch.setattr(factbook, 'files', lambda: prepared)
  vocabulary = (
    seqio.TaskRegistry.get('factbook').output_features['inputs'].vocabulary
  )
  patch.setattr(vocabulary, '_sentencepiece_model_file', '')
  patch.setattr(vocabulary, '_model', None)
  patch.delenv(factbook.VOCABULARY_VARIABLE, raising=False)
  yield factbook
  patch.undo()


def test_training_batches(factbook):
  from btr_jax import config
  from btr_jax.data import pipeline, prompts, vocabulary

  limits = config.InputLimits(num_passages=4)
  stream = pipeline.batches(
    'factbook', 'train', limits, 8, seed=0, num_epochs=None, shuffle=True
  )
  words = vocabulary.Vocabulary(factbook.files().vocabulary)
  for batch in itertools.islice(stream, 3):
    for row in range(8):
      question = words.decode(batch['question_tokens'][row])
      answer = prompts.parse_answer(
        words.decode(batch['decoder_target_tokens'][row])
      )
      passages = [words.decode(ids) for ids in batch['passage_tokens'][row]]
      assert question.endswith('<extra_id_0>')
      assert any(answer in passage for passage in passages), question


def test_examples_are_counted(factbook):
  task = seqio.get_mixture_or_task('factbook')
  report = factbook.files().read_report()
  for split in ('train', 'validation', 'test'):
    expected = report['splits'][split]['records']
    assert task.num_input_examples(split) == expected


def test_vocabulary_is_found_when_needed(factbook, monkeypatch, tmp_path):
  found = factbook.FactbookVocabulary()
  assert found.sentencepiece_model_file == factbook.files().vocabulary
  assert found.vocab_size == 1300
  monkeypatch.setenv(factbook.VOCABULARY_VARIABLE, str(tmp_path / 'no.model'))
  with pytest.raises(FileNotFoundError, match='BTR_FACTBOOK_VOCABULARY'):
    factbook.FactbookVocabulary().encode('text')


def test_vocabulary_of_the_environment_wins(
  factbook, monkeypatch, tiny_vocabulary_file
):
  monkeypatch.setenv(factbook.VOCABULARY_VARIABLE, str(tiny_vocabulary_file))
  assert factbook.FactbookVocabulary().vocab_size == 240


def test_postprocessing_and_scores(factbook):
  assert factbook.postprocess('<extra_id_0> Lima') == 'Lima'
  example = {'answers': [b'Lima', b'City of Lima']}
  targets = factbook.postprocess('', example=example, is_target=True)
  assert targets == ['Lima', 'City of Lima']
  scores = factbook.answer_scores(
    [targets, ['2,414 km', '2,414']], ['the Lima', '2,414 m']
  )
  assert scores['exact_match'] == 50.0
  assert 50.0 < scores['f1'] < 100.0


def test_evaluator_of_seqio_scores_a_perfect_reader(factbook):
  """SeqIO's Evaluator, as T5X uses it, with the gold answers predicted."""
  from btr_jax.data import feature_converters

  task = seqio.get_mixture_or_task('factbook')
  lengths = {'inputs': 32, 'passages': (2, 128), 'targets': 16}
  vocabulary = task.output_features['targets'].vocabulary
  evaluator = seqio.Evaluator(
    'factbook',
    feature_converter=feature_converters.BtrFeatureConverter(pack=False),
    eval_split='validation',
    sequence_length=lengths,
    num_examples=20,
    log_dir=None,
  )

  def predict(dataset):
    result = []
    for index, batch in dataset.as_numpy_iterator():
      ids = [int(i) for i in batch['decoder_target_tokens']]
      assert vocabulary.decode(ids)
      result.append((int(index), ids))
    return result

  metrics, _ = evaluator.evaluate(
    compute_metrics=True, predict_fn=predict, score_fn=lambda *_: []
  )
  scores = metrics.result()['factbook']
  assert scores['exact_match'] == 100.0
  assert scores['f1'] == 100.0
