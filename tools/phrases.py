"""`btr phrases`: answers by phrase retrieval, without a reader."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import dataclasses
import pathlib
import statistics
import time
from typing import Any

import jax
from rich import table as rich_table

from btr_jax.baselines.phrases import files, model, spans, training
from btr_jax.baselines.phrases import index as index_lib
from btr_jax.baselines.phrases import system as system_lib
from btr_jax.data import records as records_lib
from btr_jax.evaluation import environment, evaluator
from btr_jax.retrieval import encoder as encoder_lib
from btr_jax.tools import common, corpora
from btr_jax.tools import progress as progress_lib

ACTIONS = ('train', 'build', 'ask', 'evaluate')


def make_parser() -> common.Parser:
  """The arguments."""
  vectors, recipe = model.PhraseConfig(), training.TrainConfig()
  index = index_lib.IndexConfig()
  parser = common.Parser(
    'phrases',
    'Answers as phrases of the corpus, found by the inner products of token '
    'vectors (DensePhrases). `train` makes the vectors, `build` indexes a '
    'corpus with them, `ask` answers a question, `evaluate` scores a file of '
    'them.',
    'btr phrases train --model phrases --steps 1500\n'
    '  btr phrases build --model phrases --index phrases_index\n'
    '  btr phrases ask --model phrases --index phrases_index '
    '"What is the capital of Peru?"\n'
    '  btr phrases evaluate --model phrases --index phrases_index '
    '--split validation',
  )
  add = parser.add_argument
  add('action', choices=ACTIONS)
  add('question', nargs='?', help='of ask')
  add('--model', required=True, help='folder of the vectors')
  add('--index', help='folder of the index')
  add('--build', action='store_true', help='prepare the Factbook if need be')
  group = parser.add_argument_group('train')
  add = group.add_argument
  add('--encoder', help='to start from (all-MiniLM-L6-v2)')
  add('--layers', type=common.positive, help='the first so many of its layers')
  add('--trained', choices=training.TRAINED, default=recipe.trained)
  add('--steps', type=common.positive, default=recipe.steps)
  add('--batch', type=common.positive, default=recipe.batch_size)
  add('--learning-rate', type=float, default=recipe.learning_rate)
  add('--seed', type=int, default=recipe.seed)
  add('--dim', type=common.positive, default=vectors.dim)
  add('--passage-length', type=common.positive, default=vectors.passage_length)
  add(
    '--question-length', type=common.positive, default=vectors.question_length
  )
  add(
    '--near',
    type=common.positive,
    default=recipe.near,
    help='questions drawn together, of passages that are alike; 1: each by '
    'itself (%(default)s)',
  )
  add('--bank', type=int, default=vectors.bank, help='batches of negatives')
  group = parser.add_argument_group('build')
  add = group.add_argument
  add('--corpus', default=corpora.FACTBOOK, help='as of `btr ask` (factbook)')
  add('--storage', choices=index_lib.STORAGES, default=index.storage)
  add('--opq-dims', type=common.positive, default=index.opq_dims)
  add('--lists', type=int, default=index.lists, help='of an inverted file (0)')
  add('--no-filter', action='store_true', help='index every token')
  group = parser.add_argument_group('train, evaluate, ask')
  add = group.add_argument
  add('--questions', help='with passages and answers, in the format of DPR')
  add('--split', help='of the Factbook (train to train, else test)')
  add('--limit', type=common.positive, help='questions, drawn by --seed (all)')
  add('--depth', type=common.positive, default=50, help='tokens looked up (50)')
  add('--answers', type=common.positive, default=3, help='shown by ask (3)')
  add('--output', help='write the JSON record to this file')
  return parser


def _questions(
  arguments: argparse.Namespace, split: str
) -> list[records_lib.Record]:
  found = corpora.load_questions(
    arguments.questions, arguments.split or split, build=arguments.build
  )
  chosen = evaluator.sample_questions(
    len(found), arguments.limit, [arguments.seed]
  )[0]
  return [found[i] for i in chosen]


def _show(title: str, rows: dict[str, Any]) -> None:
  table = rich_table.Table(title=title, show_header=False)
  for name, value in rows.items():
    table.add_row(name, str(value))
  common.console().print(table)


def train(arguments: argparse.Namespace) -> dict[str, Any]:
  """Trains vectors and writes them; returns the record."""
  config = model.PhraseConfig(
    dim=arguments.dim,
    passage_length=arguments.passage_length,
    question_length=arguments.question_length,
    bank=arguments.bank,
  )
  recipe = training.TrainConfig(
    steps=arguments.steps,
    batch_size=arguments.batch,
    learning_rate=arguments.learning_rate,
    near=arguments.near,
    trained=arguments.trained,
    seed=arguments.seed,
  )
  start = encoder_lib.load_pair(arguments.encoder)[1]
  encoder, params = start.config, jax.device_get(start.params)
  if arguments.layers and arguments.layers < encoder.num_layers:
    encoder = dataclasses.replace(encoder, num_layers=arguments.layers)
    layers = jax.tree.map(lambda x: x[: arguments.layers], params['layers'])
    params = {**params, 'layers': layers}
  config = dataclasses.replace(
    config, passage_length=min(config.passage_length, encoder.num_positions)
  )
  found = _questions(arguments, 'train')
  common.say(f'finding the answers of {len(found):,} questions')
  examples = spans.make_examples(start.tokenizer, found, config)
  began, spent = time.perf_counter(), time.process_time()
  with progress_lib.Progress('steps') as progress:
    trained = training.train(
      model.initial_params(params, encoder.embed_dim, config, recipe.seed),
      encoder,
      config,
      recipe,
      examples,
      progress,
    )
  last = max(1, recipe.steps // 10)
  record = {
    'command': 'phrases train',
    'questions': len(found),
    'examples': len(examples),
    'encoder': dataclasses.asdict(encoder),
    'config': config.to_dict(),
    'recipe': dataclasses.asdict(recipe),
    'loss': statistics.fmean(trained.losses[-last:]),
    'accuracy_in_batch': 100 * statistics.fmean(trained.accuracies[-last:]),
    'seconds': time.perf_counter() - began,
    'processor_seconds': time.process_time() - spent,
  }
  files.save(
    arguments.model,
    config,
    encoder,
    trained.params,
    trained.thresholds,
    start.tokenizer,
    record,
  )
  _show(
    'phrase vectors',
    {
      'examples': f'{len(examples):,} of {len(found):,} questions',
      'loss, last tenth': f'{record["loss"]:.3f}',
      'right start in the batch': f'{record["accuracy_in_batch"]:.1f} %',
    },
  )
  return record


def build(arguments: argparse.Namespace) -> dict[str, Any]:
  """Indexes a corpus; returns the record."""
  corpus = corpora.load_corpus(arguments.corpus, build=arguments.build)
  began, spent = time.perf_counter(), time.process_time()
  with progress_lib.Progress('passages') as progress:
    settings = index_lib.build(
      _index_folder(arguments),
      files.load(arguments.model),
      corpus.passages,
      index_lib.IndexConfig(
        arguments.storage,
        arguments.opq_dims,
        arguments.lists,
        not arguments.no_filter,
      ),
      progress,
    )
  seconds = time.perf_counter() - began
  phrase_system = _system(arguments)
  record = {
    'command': 'phrases build',
    'corpus': corpus.name,
    **settings,
    'index_bytes': phrase_system.index_bytes,
    'seconds': seconds,
    'processor_seconds': time.process_time() - spent,
  }
  _show(
    'phrase index',
    {
      'passages': f'{settings["passages"]:,}',
      'tokens kept': f'{settings["tokens"]:,}',
      'bytes': f'{record["index_bytes"]:,}',
    },
  )
  return record


def _index_folder(arguments: argparse.Namespace) -> pathlib.Path:
  if not arguments.index:
    raise common.UserError(
      f'`btr phrases {arguments.action}` needs --index, the folder of the '
      'index.'
    )
  return pathlib.Path(arguments.index)


def _system(arguments: argparse.Namespace) -> system_lib.PhraseSystem:
  return system_lib.PhraseSystem.load(
    arguments.model, _index_folder(arguments), arguments.depth
  )


def ask(arguments: argparse.Namespace) -> dict[str, Any]:
  """Answers one question; returns the record."""
  if not arguments.question:
    raise common.UserError('`btr phrases ask` needs a question.')
  found = _system(arguments).find([arguments.question], arguments.answers)[0]
  table = rich_table.Table(title=arguments.question)
  for title in ('answer', 'score', 'passage'):
    table.add_column(title)
  for answer in found:
    table.add_row(answer.text, f'{answer.score:.2f}', answer.passage.title)
  common.console().print(table)
  return {
    'command': 'phrases ask',
    'question': arguments.question,
    'answers': [
      {'text': a.text, 'score': a.score, 'passage': a.passage.id} for a in found
    ],
  }


def evaluate(arguments: argparse.Namespace) -> dict[str, Any]:
  """Scores the answers to a file of questions; returns the record."""
  phrase_system = _system(arguments)
  found = _questions(arguments, 'test')
  questions = [record.question for record in found]
  phrase_system.answer(questions[:1])  # compiles
  predictions = []
  began = time.perf_counter()
  with progress_lib.Progress('questions') as progress:
    for question in questions:  # one at a time, as readers are measured
      predictions += phrase_system.answer([question])
      progress(len(predictions), len(questions))
  seconds = time.perf_counter() - began
  scores = evaluator.score(predictions, found, [range(len(found))])
  record = {
    'command': 'phrases evaluate',
    'questions': len(found),
    'split': arguments.questions or arguments.split or 'test',
    'seed': arguments.seed,
    **{name: score.mean for name, score in scores.items()},
    'questions_per_second': len(found) / seconds,
    'index_bytes': phrase_system.index_bytes,
    'tokens': phrase_system.index.settings['tokens'],
    'passages': phrase_system.index.settings['passages'],
    'index': phrase_system.index.settings['config'],
    'depth': arguments.depth,
    'environment': environment.environment(),
  }
  _show(
    'phrase retrieval',
    {
      'questions': len(found),
      'exact match': f'{record["em"]:.1f} %',
      'F1': f'{record["f1"]:.1f} %',
      'questions per second': f'{record["questions_per_second"]:.1f}',
      'index, bytes': f'{record["index_bytes"]:,}',
    },
  )
  return record


def main(argv: Sequence[str]) -> int:
  """Runs the command; see `--help`."""
  # `parse_args` would take no question behind options.
  arguments = make_parser().parse_intermixed_args(argv)
  actions = {'train': train, 'build': build, 'ask': ask, 'evaluate': evaluate}
  record = actions[arguments.action](arguments)
  if arguments.output:
    records_lib.write_json(arguments.output, record)
  common.print_json(record)
  return common.EXIT_OK
