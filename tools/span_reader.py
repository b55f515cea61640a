"""`btr span-reader train|evaluate`: BTR in an encoder-only reader."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import pathlib

from rich import table as rich_table

from btr_jax.baselines.span_reader import batches as batches_lib
from btr_jax.baselines.span_reader import config as config_lib
from btr_jax.baselines.span_reader import evaluation, examples, files, training
from btr_jax.data import records as records_lib
from btr_jax.evaluation import environment
from btr_jax.tools import common
from btr_jax.tools import progress as progress_lib

_STAGES = (1, 2, 3)


def make_parser() -> common.Parser:
  """The arguments."""
  parser = common.Parser(
    'span-reader',
    "A reader of BERT's shape whose answers are spans, with and without "
    'binary passage tokens: training in three stages, and its scores and '
    'speed in every mode.',
    'btr span-reader train --data squad/dev-v1.1.json --articles 36 '
    '--output runs/span',
  )
  actions = parser.add_subparsers(
    dest='action', required=True, parser_class=argparse.ArgumentParser
  )

  train = actions.add_parser(
    'train', help='train the three stages, or go on with them'
  )
  _add_data(train, 'trained on')
  train.add_argument('--output', required=True, help='folder of the run')
  train.add_argument(
    '--encoder', help='folder of a BERT encoder; MiniLM by default'
  )
  train.add_argument(
    '--split-layer',
    type=common.positive,
    default=4,
    help='layers that run on question and passage apart (4)',
  )
  for name in ('question', 'passage', 'answer'):
    field = f'{name}_length'
    default = getattr(config_lib.SpanReaderConfig, field)
    train.add_argument(
      f'--{name}-length',
      type=common.positive,
      default=default,
      help=f'tokens of the {name}, at most ({default})',
    )
  train.add_argument(
    '--steps',
    type=common.integers,
    default=[300, 200, 300],
    help='updates of the stages (300,200,300)',
  )
  train.add_argument(
    '--stages',
    type=common.integers,
    default=list(_STAGES),
    help='those to run; earlier ones must have ended (1,2,3)',
  )
  train.add_argument(
    '--learning-rate', type=float, default=2e-4, help='its peak (2e-4)'
  )
  train.add_argument(
    '--batch-size',
    type=common.positive,
    default=batches_lib.BatchShape().questions,
    help='questions of a batch (16)',
  )
  train.add_argument(
    '--passages',
    type=common.positive,
    default=1,
    help='passages per question: its own and others of the batch (1)',
  )
  train.add_argument(
    '--window',
    type=common.positive,
    default=batches_lib.BatchShape().passage_length,
    help='tokens of a passage in training (96)',
  )
  train.add_argument(
    '--distill',
    choices=('attention', 'all', 'random', 'none'),
    default='attention',
    help='passage tokens that stage 2 distils (attention)',
  )
  train.add_argument(
    '--plain-signs',
    action='store_true',
    help='stage 3 starts from +-1, without statistics of the passages',
  )
  train.add_argument('--seed', type=int, default=0, help='(0)')

  evaluate = actions.add_parser(
    'evaluate', help='exact match, F1 and questions per second'
  )
  _add_data(evaluate, 'not evaluated')
  evaluate.add_argument(
    '--run', required=True, help='folder that `train` wrote, or one reader'
  )
  evaluate.add_argument(
    '--modes',
    default=','.join(config_lib.MODES),
    help='comma-separated (joint,decomposed,binary)',
  )
  evaluate.add_argument(
    '--limit', type=common.positive, help='questions per file'
  )
  evaluate.add_argument(
    '--passages', type=common.positive, default=1, help='per question (1)'
  )
  evaluate.add_argument(
    '--batch-size', type=common.positive, default=8, help='questions (8)'
  )
  evaluate.add_argument(
    '--cache', help='folder for the caches of mode binary; none by default'
  )
  evaluate.add_argument(
    '--compress',
    type=float,
    metavar='RATIO',
    help='share of the cached tokens that is merged, stop words shared '
    '(with --cache; none by default)',
  )
  evaluate.add_argument(
    '--repeats',
    type=common.positive,
    default=1,
    help='timed runs over the questions (1)',
  )
  evaluate.add_argument('--seed', type=int, default=0, help='of the sample (0)')
  evaluate.add_argument('--output', help='JSON file for the record')
  return parser


def _add_data(parser: argparse.ArgumentParser, use: str) -> None:
  parser.add_argument(
    '--data',
    nargs='+',
    required=True,
    help='files of questions with passages (see docs/span_reader.md)',
  )
  parser.add_argument(
    '--articles',
    type=common.positive,
    help=f'of files by article (SQuAD), the first that are {use}',
  )


def _records(arguments: argparse.Namespace, passages: int, train: bool):
  """Questions by file."""
  result = {}
  for path in arguments.data:
    found = examples.read(path, passages)
    if arguments.articles and found[0].extra.get('article'):
      parts = examples.by_article(found, arguments.articles)
      found = parts[0] if train else parts[1]
    name = pathlib.Path(path).name
    if name in result:
      raise common.UserError(
        f'--data has two files named {name}, {path} among them; expected other '
        'names, which rows and caches go by.'
      )
    result[name] = found
  return result


def _train(arguments: argparse.Namespace) -> int:
  if len(arguments.steps) != len(_STAGES):
    raise common.UserError(
      f'--steps {arguments.steps} has {len(arguments.steps)} numbers; expected '
      'three, one per stage.'
    )
  if sorted(set(arguments.stages) & set(_STAGES)) != arguments.stages:
    raise common.UserError(
      f'--stages {arguments.stages}; expected some of 1,2,3, in order.'
    )
  output = pathlib.Path(arguments.output)
  records = [
    record
    for part in _records(arguments, 1, train=True).values()
    for record in part
  ]
  start = files.from_encoder(
    arguments.encoder,
    split_layer=arguments.split_layer,
    seed=arguments.seed,
    question_length=arguments.question_length,
    passage_length=arguments.passage_length,
    answer_length=arguments.answer_length,
  )
  teacher, folders = None, {}
  for stage in range(1, arguments.stages[-1] + 1):
    folder = output / training.stage_name(stage) / training.READER_FOLDER
    if stage not in arguments.stages:
      start = files.load(folder)
      teacher = teacher or start
      continue
    recipe = training.SpanRecipe(
      stage,
      arguments.steps[stage - 1],
      arguments.learning_rate,
      batches_lib.BatchShape(
        questions=arguments.batch_size,
        passages=max(arguments.passages, arguments.batch_size * 3 // 4),
        passage_length=arguments.window,
        passages_per_question=arguments.passages,
      ),
      arguments.distill,
      not arguments.plain_signs,
      arguments.seed * len(_STAGES) + stage - 1,
    )
    folder = training.run_stage(recipe, output, records, start, teacher)
    if folder is None:
      raise common.UserError(
        f'stopped in {training.stage_name(stage)}; the same command goes on.'
      )
    folders[training.stage_name(stage)] = str(folder)
    start = files.load(folder)
    teacher = teacher or start
  shown = rich_table.Table('stage', 'reader')
  for name, folder in folders.items():
    shown.add_row(name, folder)
  common.console().print(shown)
  common.print_json(
    {'command': 'span-reader train', 'questions': len(records)} | folders
  )
  return common.EXIT_OK


def _evaluate(arguments: argparse.Namespace) -> int:
  modes = [mode.strip() for mode in arguments.modes.split(',')]
  for mode in modes:
    config_lib.check_mode(mode)
  if arguments.compress is not None and not arguments.cache:
    raise common.UserError(
      f'--compress {arguments.compress} needs a cache; name its folder by '
      '--cache.'
    )
  record = {
    'command': 'span-reader evaluate',
    'environment': environment.environment(),
    'rows': [],
  }
  parts = _records(arguments, arguments.passages, train=False)
  with progress_lib.Progress('evaluate') as progress:
    done, total = 0, len(parts) * len(modes)
    for name, records in parts.items():
      chosen = evaluation.sample(records, arguments.limit, arguments.seed)
      for mode in modes:
        row = evaluation.evaluate(
          evaluation.reader_of(pathlib.Path(arguments.run), mode),
          chosen,
          batch_size=arguments.batch_size,
          repeats=arguments.repeats,
          cache=arguments.cache and pathlib.Path(arguments.cache) / name,
          ratio=arguments.compress,
        )
        record['rows'].append({'data': name, **row})
        done += 1
        progress(done, total)
  evaluation.add_ratios(record['rows'])
  shown = rich_table.Table(
    'questions', 'mode', 'EM', 'F1', 'EM of joint', 'questions/s', 'B/token'
  )
  for row in record['rows']:
    kept, size = row.get('em_of_joint'), row['bytes_per_token']
    shown.add_row(
      f'{row["data"]} ({row["questions"]})',
      row['mode'],
      f'{row["em"]:.1f}',
      f'{row["f1"]:.1f}',
      '-' if kept is None else f'{100 * kept:.1f} %',
      f'{row["questions_per_second"]:.2f}',
      '-' if size is None else f'{size:.1f}',
    )
  common.console().print(shown)
  if arguments.output:
    records_lib.write_json(arguments.output, record)
  common.print_json(record)
  return common.EXIT_OK


def main(argv: Sequence[str]) -> int:
  """Runs the command; see `--help`."""
  arguments = make_parser().parse_args(argv)
  if arguments.action == 'train':
    return _train(arguments)
  return _evaluate(arguments)
