"""DensePhrases: spans, losses, training, index, command."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from btr_jax.baselines.phrases import files, model, spans, system, training
from btr_jax.baselines.phrases import index as index_lib
from btr_jax.data import records
from btr_jax.data.records import Passage
from btr_jax.evaluation import answer_metrics
from btr_jax.retrieval import encoder as encoder_lib
from btr_jax.tools import main as main_lib

pytest.importorskip('faiss')
pytest.importorskip('tokenizers')

CONFIG = model.PhraseConfig(
  dim=24, passage_length=48, question_length=16, answer_tokens=12
)


@pytest.fixture(scope='module')
def start(tiny_encoder_folder):
  return encoder_lib.SentenceEncoder.load(tiny_encoder_folder)


@pytest.fixture(scope='module')
def examples(start, tiny_records):
  return spans.make_examples(start.tokenizer, tiny_records, CONFIG)


@pytest.fixture(scope='module')
def trained(start, examples, tmp_path_factory):
  """A model that knows the capitals of the corpus by heart."""
  params = model.initial_params(jax.device_get(start.params), 32, CONFIG)
  recipe = training.TrainConfig(steps=80, batch_size=6, learning_rate=5e-3)
  found = training.train(params, start.config, CONFIG, recipe, examples)
  folder = tmp_path_factory.mktemp('phrases') / 'model'
  files.save(
    folder,
    CONFIG,
    start.config,
    found.params,
    found.thresholds,
    start.tokenizer,
    {'trained': 'yes'},
  )
  return found, folder


@pytest.fixture(scope='module')
def index_folder(trained, tiny_passages, tmp_path_factory):
  folder = tmp_path_factory.mktemp('phrases') / 'index'
  index_lib.build(
    folder, files.load(trained[1]), tiny_passages, index_lib.IndexConfig()
  )
  return folder


def test_spans_stand_where_the_answer_does(start):
  passage = Passage('p', 'Lima', 'Lima is the capital. Not Limas, but Lima')
  found = spans.tokenize_passages(start.tokenizer, [passage], 40)[0]
  assert not found.answerable[0] and not found.answerable[-1]
  places = spans.find_spans(found, passage.text, ['Lima', 'absent'], 8)
  # Neither the title's, nor the beginning of another word.
  texts = [
    (int(found.offsets[a][0]), passage.text[found.offsets[a][0] :][:4])
    for a, _ in places
  ]
  assert texts == [(0, 'Lima'), (36, 'Lima')]
  first, last = places[1]
  assert found.offsets[last][1] == len(passage.text)
  assert spans.find_spans(found, passage.text, [passage.text], 3) == ()


def test_examples_learn_from_the_gold_passage(start, tiny_records, examples):
  assert len(examples) == len(tiny_records)
  named = dataclasses.replace(
    tiny_records[0], extra={'gold': tiny_records[0].contexts[1].id}
  )
  # The passage that is named does not hold the answer: nothing to learn.
  assert spans.make_examples(start.tokenizer, [named], CONFIG) == []


def test_the_loss_by_hand(start, examples):
  """One side written out: all tokens of the batch compete, one is right."""
  params = model.initial_params(jax.device_get(start.params), 32, CONFIG)
  batch = spans.make_batch(examples[:3], CONFIG)
  batch = jax.tree.map(jnp.asarray, batch)
  bank = model.empty_bank(CONFIG, 3)
  config = dataclasses.replace(CONFIG, filter_weight=0.0)
  value, found = model.loss(params, batch, bank, start.config, config)
  vectors, _ = model.token_vectors(
    params, batch['passage_ids'], batch['passage_mask'], start.config
  )
  queries = model.question_vectors(
    params, batch['question_ids'], batch['question_mask'], start.config
  )
  wanted = []
  for side, name in enumerate(('starts', 'ends')):
    scores = np.einsum('qd,pld->qpl', queries[side], vectors)
    for row in range(3):
      among = scores[row][batch['answerable']]
      right = scores[row, row][batch[name][row]]
      wanted.append(np.log(np.exp(among).sum()) - np.log(np.exp(right).sum()))
  np.testing.assert_allclose(float(value), np.mean(wanted), rtol=1e-4)
  assert found['bank']['filled'].sum() == 3
  # What was right before competes as well.
  more, _ = model.loss(params, batch, found['bank'], start.config, config)
  assert float(more) > float(value)
  # Two rows of one passage do not compete with each other.
  same = dict(batch, same=jnp.ones((3, 3), bool))
  alone, _ = model.loss(params, same, bank, start.config, config)
  assert float(alone) < float(value)


def test_training_learns(trained):
  found, _ = trained
  assert np.mean(found.losses[-10:]) < 0.3 * np.mean(found.losses[:5])
  assert np.mean(found.accuracies[-10:]) > 0.8


def test_heads_alone_leave_the_encoders(start, examples):
  params = model.initial_params(jax.device_get(start.params), 32, CONFIG)
  recipe = training.TrainConfig(steps=2, batch_size=4, trained='heads')
  found = training.train(params, start.config, CONFIG, recipe, examples)
  for part in ('passage', 'question'):
    for before, after in zip(
      jax.tree.leaves(params[part]),
      jax.tree.leaves(found.params[part]),
      strict=True,
    ):
      np.testing.assert_array_equal(before, after)
  assert not np.array_equal(
    params['heads']['token'], found.params['heads']['token']
  )


def test_answers_are_phrases_of_the_corpus(trained, index_folder, tiny_records):
  phrases = system.PhraseSystem.load(trained[1], index_folder)
  answers = phrases.answer([record.question for record in tiny_records])
  right = [
    answer_metrics.exact_match(answer, record.answers)
    for answer, record in zip(answers, tiny_records, strict=True)
  ]
  assert np.mean(right) >= 0.75
  best = phrases.find([tiny_records[0].question], 3)[0]
  assert best[0].text in best[0].passage.text
  assert [a.score for a in best] == sorted(
    (a.score for a in best), reverse=True
  )
  size = sum(
    (index_folder / name).stat().st_size
    for name in ('index.faiss', 'tokens.npy')
  )
  assert phrases.index_bytes == size


def test_search_finds_the_best_phrase_of_all(trained, tiny_passages, tmp_path):
  """Against every span of every passage, scored one by one."""
  phrase_model = files.load(trained[1])
  config = index_lib.IndexConfig(storage='float', filtered=False)
  settings = index_lib.build(tmp_path, phrase_model, tiny_passages[:6], config)
  index = index_lib.PhraseIndex(tmp_path, phrase_model)
  vectors, places = index_lib.encode_corpus(
    phrase_model, tiny_passages[:6], False
  )
  assert settings['tokens'] == len(vectors)
  generator = np.random.default_rng(0)
  starts, ends = generator.normal(size=(2, 3, 24)).astype(np.float32)
  found = index.search(starts, ends, depth=len(vectors))
  for number in range(3):
    best = max(
      (float(vectors[i] @ starts[number] + vectors[j] @ ends[number]), i, j)
      for i in range(len(vectors))
      for j in range(i, min(i + CONFIG.answer_tokens, len(vectors)))
      if places['passage'][i] == places['passage'][j]
    )
    assert found[number][0][1:] == best[1:]
    assert found[number][0][0] == pytest.approx(best[0], rel=1e-4)
    for _, i, j in found[number]:
      assert i <= j and places['passage'][i] == places['passage'][j]


@pytest.mark.parametrize(
  ('config', 'factory'),
  [
    (index_lib.IndexConfig('sq4'), 'SQ4'),
    (index_lib.IndexConfig('opq', 4), 'OPQ6,PQ6'),
    (index_lib.IndexConfig('sq8', lists=8), 'IVF8,SQ8'),
    (index_lib.IndexConfig('float'), 'Flat'),
  ],
)
def test_storage_by_faiss_name(config, factory):
  assert config.factory(24) == factory


def test_the_filter_and_lists_shrink_the_work(
  trained, index_folder, tiny_passages, tiny_records, tmp_path
):
  phrase_model = files.load(trained[1])
  whole = index_lib.build(
    tmp_path,
    phrase_model,
    tiny_passages,
    index_lib.IndexConfig(lists=2, filtered=False),
  )
  kept = json.loads((index_folder / 'index.json').read_text())
  assert 0 < kept['tokens'] < whole['tokens']
  phrases = system.PhraseSystem.load(trained[1], tmp_path)
  assert phrases.answer([tiny_records[0].question])[0]


def test_what_does_not_fit_is_refused(trained, index_folder, tmp_path, start):
  with pytest.raises(ValueError, match='no phrase model'):
    files.load(tmp_path)
  phrase_model = files.load(trained[1])
  with pytest.raises(ValueError, match='no finished phrase index'):
    index_lib.PhraseIndex(tmp_path, phrase_model)
  other = dataclasses.replace(phrase_model, fingerprint='other')
  with pytest.raises(ValueError, match='another phrase model'):
    index_lib.PhraseIndex(index_folder, other)
  with pytest.raises(ValueError, match='dim is 64'):
    model.initial_params({}, 32, dataclasses.replace(CONFIG, dim=64))
  with pytest.raises(ValueError, match='Question 0 of 1 is empty'):
    system.PhraseSystem.load(trained[1], index_folder).answer([' '])
  with pytest.raises(ValueError, match='for a batch of 24'):
    next(training.shuffled([], 24, 0))


def test_the_command(
  tmp_path, tiny_encoder_folder, tiny_passages, tiny_records, capsys
):
  corpus, questions = tmp_path / 'corpus.jsonl', tmp_path / 'questions.jsonl'
  records.write_passages(corpus, tiny_passages)
  records.write_records(questions, tiny_records)

  def run(*arguments):
    command = ['phrases', *arguments, '--model', tmp_path / 'model']
    code = main_lib.main([str(part) for part in command])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out.splitlines()[-1])

  index = ('--index', tmp_path / 'index')
  record = run(
    'train',
    '--encoder',
    tiny_encoder_folder,
    '--questions',
    questions,
    '--steps',
    2,
    '--batch',
    4,
    '--dim',
    16,
    '--layers',
    1,
  )
  assert record['examples'] == len(tiny_records)
  assert record['encoder']['num_layers'] == 1
  built = run('build', *index, '--corpus', corpus, '--no-filter')
  assert built['index_bytes'] > built['tokens'] * (16 + 10)
  scores = run('evaluate', *index, '--questions', questions, '--limit', 5)
  assert scores['questions'] == 5 and 0 <= scores['em'] <= 100
  asked = run('ask', *index, 'What is the capital of Peru?')
  assert asked['answers'][0]['text']
  assert main_lib.main(['phrases', 'ask', '--model', 'x']) == 2
  assert 'needs a question' in capsys.readouterr().err
