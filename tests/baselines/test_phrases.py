"""DensePhrases: spans, losses, training, index, command."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from btr_jax.baselines.phrases import (
  files,
  model,
  search,
  spans,
  system,
  training,
  vectors,
)
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
  recipe = training.TrainConfig(steps=120, batch_size=6, learning_rate=5e-3)
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
  params = jax.device_put(params)
  batch = spans.make_batch(examples[:3], CONFIG)
  batch = jax.tree.map(jnp.asarray, batch)
  config = dataclasses.replace(CONFIG, filter_weight=0.0)
  measure = jax.jit(
    lambda batch, bank: model.loss(params, batch, bank, start.config, config)
  )
  bank = model.empty_bank(CONFIG, 3)
  value, found = measure(batch, bank)

  @jax.jit
  def encode(batch):
    return (
      model.token_vectors(
        params, batch['passage_ids'], batch['passage_mask'], start.config
      )[0],
      model.question_vectors(
        params, batch['question_ids'], batch['question_mask'], start.config
      ),
    )

  of_tokens, queries = jax.device_get(encode(batch))
  every, every_right, wanted = [], [], []
  for side, name in enumerate(('starts', 'ends')):
    scores = np.einsum('qd,pld->qpl', queries[side], of_tokens)
    every.append(scores)
    every_right.append(scores[:, np.asarray(batch[name])])
    for row in range(3):
      among = scores[row][batch['answerable']]
      right = scores[row, row][batch[name][row]]
      wanted.append(np.log(np.exp(among).sum()) - np.log(np.exp(right).sum()))
  np.testing.assert_allclose(float(value), np.mean(wanted), rtol=1e-4)
  # Training begins with scores that differ, else nothing is learnt for long.
  assert 0.15 < np.std(every) < 5
  np.testing.assert_array_equal(found['bank']['passages'][:3], [0, 1, 2])
  # What was right for other passages before competes; here that is two more
  # rivals on either side for each of the three.
  more, _ = measure(batch, found['bank'])
  for side, scores in enumerate(every_right):
    for row in range(3):
      place = 3 * side + row
      rivals = np.exp(np.delete(scores[row], row)).sum()
      whole = np.exp(every[side][row][batch['answerable']]).sum()
      wanted[place] += np.log((whole + rivals) / whole)
  np.testing.assert_allclose(float(more), np.mean(wanted), rtol=1e-4)
  # A passage does not compete with itself, neither out of the bank nor out of
  # another row.
  alone = dict(batch, passage_numbers=jnp.full(3, 7, jnp.int32))
  fresh, kept = measure(alone, bank)
  again, _ = measure(alone, kept['bank'])
  assert float(fresh) == float(again) < float(value)


def test_batches_are_of_passages_that_are_alike(examples):
  """Those retrieved for one question are drawn together, each example once."""
  # One passage per country, and two others came with every question.
  assert {len(example.near) for example in examples} <= {1, 2}
  drawn = training.batches(examples, 6, 8, 0)
  rows = [*next(drawn), *next(drawn)]
  assert sorted(row.passage_number for row in rows) == list(range(12))
  pairs = [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, 11)]
  chosen = [
    dataclasses.replace(
      example, near=tuple(n for pair in pairs if i in pair for n in pair)
    )
    for i, example in enumerate(examples)
  ]
  drawn = training.batches(chosen, 2, 2, 0)
  for _ in range(12):
    numbers = sorted(example.passage_number for example in next(drawn))
    assert tuple(numbers) in pairs
  together = [next(training.batches(chosen, 2, 1, seed)) for seed in range(8)]
  assert not all(
    tuple(sorted(e.passage_number for e in batch)) in pairs
    for batch in together
  )


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
  index = search.PhraseIndex(tmp_path, phrase_model)
  ((of_tokens, places),) = vectors.encode_corpus(
    phrase_model, tiny_passages[:6], False
  )
  assert settings['tokens'] == len(of_tokens)
  generator = np.random.default_rng(0)
  starts, ends = generator.normal(size=(2, 3, 24)).astype(np.float32)
  found = index.search(starts, ends, depth=len(of_tokens))
  for number in range(3):
    best = max(
      (float(of_tokens[i] @ starts[number] + of_tokens[j] @ ends[number]), i, j)
      for i in range(len(of_tokens))
      for j in range(i, min(i + CONFIG.answer_tokens, len(of_tokens)))
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


@pytest.mark.parametrize(
  'config',
  [
    index_lib.IndexConfig('opq', 8, lists=2, filtered=False),
    index_lib.IndexConfig('sq4', filtered=False),
  ],
)
def test_quantized_vectors_find_much_the_same(
  trained, tiny_passages, tiny_records, tmp_path, config
):
  """Other storages answer as floats do, for most questions."""
  exact = index_lib.IndexConfig('float', filtered=False)
  answers, sizes = [], []
  for number, stored in enumerate((exact, config)):
    folder = tmp_path / str(number)
    index_lib.build(folder, files.load(trained[1]), tiny_passages, stored)
    phrases = system.PhraseSystem.load(trained[1], folder)
    answers.append(phrases.answer([r.question for r in tiny_records]))
    sizes.append((folder / 'index.faiss').stat().st_size)
  same = [a == b for a, b in zip(*answers, strict=True)]
  assert np.mean(same) > 0.6
  if config.storage == 'sq4':
    assert sizes[1] < sizes[0] / 7  # 4 bits for 32, and what describes them


def test_the_filter_shrinks_the_index(
  trained, index_folder, tiny_passages, tiny_records
):
  phrase_model = files.load(trained[1])
  ((_, whole),) = vectors.encode_corpus(phrase_model, tiny_passages, False)
  kept = np.load(index_folder / 'tokens.npy')
  assert 0 < len(kept) < len(whole) / 2
  # It keeps what it was taught to: where the capitals begin.
  begins = set(zip(kept['passage'], kept['first'], strict=True))
  wanted = [
    (2 * i, tiny_passages[2 * i].text.find(record.answers[0]))
    for i, record in enumerate(tiny_records)
  ]
  assert np.mean([place in begins for place in wanted]) > 0.9


def test_answers_are_whole_words(trained, tmp_path, index_folder):
  """Tokens may be parts of words, and texts longer than places can tell."""
  phrase_model = files.load(trained[1])
  passages = [Passage('p', 'Zambia', 'Lusakas.'), Passage('q', '', 'x')]
  config = index_lib.IndexConfig('float', filtered=False)
  index_lib.build(tmp_path, phrase_model, passages, config)
  index = search.PhraseIndex(tmp_path, phrase_model)
  assert index.text(1, 2) == 'Lusakas'
  far = Passage('p', '', 'lima' + ' ' * 70_000 + 'lima')
  found = spans.tokenize_passages(phrase_model.tokenizer, [far], 8)[0]
  assert found.answerable.sum() == 4  # l, ##i, ##m, ##a of the first


def test_what_does_not_fit_is_refused(trained, index_folder, tmp_path, start):
  with pytest.raises(ValueError, match='no phrase model'):
    files.load(tmp_path)
  phrase_model = files.load(trained[1])
  with pytest.raises(ValueError, match='no finished phrase index'):
    search.PhraseIndex(tmp_path, phrase_model)
  empty = [Passage('p', 'A title', '')]
  few = [Passage('p', 'Peru', 'Lima')]
  config = index_lib.IndexConfig(filtered=False)
  with pytest.raises(ValueError, match='No token is left'):
    index_lib.build(tmp_path, phrase_model, empty, config)
  for config in (
    index_lib.IndexConfig('opq', filtered=False),
    index_lib.IndexConfig(lists=256, filtered=False),
  ):
    with pytest.raises(ValueError, match='expected at least 256'):
      index_lib.build(tmp_path, phrase_model, few, config)
  with pytest.raises(ValueError, match='opq_dims is 5; expected a divisor'):
    index_lib.IndexConfig('opq', 5).factory(24)
  with pytest.raises(ValueError, match='no finished phrase index'):
    search.PhraseIndex(tmp_path, phrase_model)
  damaged = shutil.copytree(index_folder, tmp_path / 'damaged')
  np.save(damaged / 'tokens.npy', np.load(damaged / 'tokens.npy')[1:])
  with pytest.raises(ValueError, match='is damaged: .* Build it again'):
    search.PhraseIndex(damaged, phrase_model)
  (damaged / 'index.faiss').write_bytes(b'IxSQ')
  with pytest.raises(ValueError, match='is damaged: .* Build it again'):
    search.PhraseIndex(damaged, phrase_model)
  other = dataclasses.replace(phrase_model, fingerprint='other')
  with pytest.raises(ValueError, match='another phrase model'):
    search.PhraseIndex(index_folder, other)
  with pytest.raises(ValueError, match='dim is 64'):
    model.initial_params({}, 32, dataclasses.replace(CONFIG, dim=64))
  with pytest.raises(ValueError, match='Question 0 of 1 is empty'):
    system.PhraseSystem.load(trained[1], index_folder).answer([' '])
  with pytest.raises(ValueError, match='for a batch of 24'):
    next(training.batches([], 24, 8, 0))
  with pytest.raises(ValueError, match='learning_rate is 0'):
    training.TrainConfig(learning_rate=0.0)
  with pytest.raises(ValueError, match='bank_after is 2'):
    training.TrainConfig(bank_after=2.0)


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
    '--trained',
    'heads',
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
