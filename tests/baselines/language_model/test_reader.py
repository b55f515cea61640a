"""A reader from files to answers, and examples to train it on."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from btr_jax.baselines.language_model import config as config_lib
from btr_jax.baselines.language_model import examples, prompt
from btr_jax.baselines.language_model import lora as lora_lib
from btr_jax.baselines.language_model import reader as reader_lib

SETTINGS = {
  'prompt': prompt.PromptConfig(
    num_passages=2, passage_length=8, style='plain', instruction='Answer.'
  ),
  'answer': reader_lib.AnswerConfig(answer_length=6, batch_size=2),
}


@pytest.fixture
def reader(lm_config, lm_params, write_folder):
  config = lm_config(num_layers=1)
  folder = write_folder(config, lm_params(config))
  return reader_lib.LanguageModelReader.from_folder(folder, **SETTINGS)


@pytest.fixture(scope='module')
def asked(tiny_records):
  questions = [record.question for record in tiny_records[:3]]
  passages = [
    [context.passage for context in record.contexts]
    for record in tiny_records[:3]
  ]
  return questions, passages


def test_answers_do_not_depend_on_their_neighbours(
  reader, asked, lm_params, write_gguf
):
  questions, passages = asked
  told = []
  answers = reader.answer(
    questions, passages, progress=lambda *counts: told.append(counts)
  )
  assert told == [(2, 3), (3, 3)]
  assert len(set(answers)) > 1 and all(answers)
  for number, answer in enumerate(answers):
    alone = reader.answer([questions[number]], [passages[number]])
    assert alone == [answer]
  assert reader.answer(questions[::-1], passages[::-1]) == answers[::-1]
  assert reader.answer([], []) == []

  size = sum(leaf.size for leaf in jax.tree.leaves(reader.params))
  assert reader.model_bytes == reader.stored_bytes == 4 * size

  updates = lora_lib.initial(reader.config, config_lib.PAPER_LORA, 0)
  merged = reader.with_lora(updates, config_lib.PAPER_LORA)
  assert merged.answer(questions, passages) == answers


def test_gguf_and_folder_read_the_same_prompts(reader, asked, write_gguf):
  path = write_gguf(reader.config, reader.params)
  other = reader_lib.LanguageModelReader.from_gguf(path, **SETTINGS)
  for question, passages in zip(*asked, strict=True):
    assert other.prompt_ids(question, passages) == reader.prompt_ids(
      question, passages
    )
  assert other.config == dataclasses.replace(
    reader.config, norm_epsilon=other.config.norm_epsilon
  )


def test_bad_calls_say_what_is_wrong(reader, asked, lm_config, lm_params):
  questions, passages = asked
  with pytest.raises(ValueError, match='3 questions and passages of 1'):
    reader.answer(questions, passages[:1])
  with pytest.raises(ValueError, match='answer_length is 0'):
    reader_lib.AnswerConfig(answer_length=0)
  with pytest.raises(ValueError, match='num_passages is 0'):
    prompt.PromptConfig(num_passages=0)
  with pytest.raises(ValueError, match="style is 'alpaca'"):
    prompt.PromptConfig(style='alpaca')
  model = dataclasses.replace(reader._model, config=lm_config(vocab_size=300))
  with pytest.raises(ValueError, match='320 tokens and the model 300'):
    reader_lib.LanguageModelReader(model)


def test_examples_end_with_their_answers(reader, tiny_records):
  made = [examples.make(reader, record) for record in tiny_records]
  kept = [example for example in made if example is not None]
  assert 0 < len(kept) < len(made)  # Some answers have too many tokens.
  stream = examples.batches(kept, batch_size=3, answer_length=6, seed=0)
  (batch,) = itertools.islice(stream, 1)
  assert batch['tokens'].shape == batch['mask'].shape
  assert batch['target_mask'].shape == (3, 6)
  known = {tuple(example.answer): example.prompt for example in kept}
  for row in range(3):
    answer = batch['tokens'][row, -6:][batch['target_mask'][row]]
    assert answer[-1] == 0  # The first of the tokens that end a text.
    prompt_ids = known[tuple(answer.tolist())]
    before = batch['tokens'][row][batch['mask'][row]][: -len(answer)]
    assert before.tolist() == prompt_ids
  again = examples.batches(kept, batch_size=3, answer_length=6, seed=0)
  np.testing.assert_array_equal(next(again)['tokens'], batch['tokens'])
  bare = dataclasses.replace(tiny_records[0], answers=())
  assert examples.make(reader, bare) is None
  with pytest.raises(ValueError, match='no example'):
    next(examples.batches([], batch_size=1, answer_length=6, seed=0))
