"""What `btr evaluate` can be asked for."""

from __future__ import annotations

import argparse

from btr_jax.tools import common, merging_options, questions, systems


def limit(text: str) -> int | None:
  """`all`, or an integer above 0."""
  return None if text == 'all' else common.positive(text)


def repeats(text: str) -> int:
  """An integer of at least 0."""
  return 0 if text == '0' else common.positive(text)


def add_speed_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds how many questions at once, and how their speed is measured."""
  add = parser.add_argument
  add('--batch', type=common.positive, default=1, help='questions at once (1)')
  add(
    '--speed-questions',
    type=common.positive,
    default=32,
    help='questions that speed is measured on (32)',
  )
  add(
    '--repeats',
    type=repeats,
    default=5,
    help='of the speed measurement; 0 leaves it out (5)',
  )


def make_parser() -> common.Parser:
  """The arguments."""
  parser = common.Parser(
    'evaluate',
    'Reads questions from their retrieved passages and scores the answers. '
    'With --mode all every system answers in one run, so that their speeds '
    'may be compared.',
    'btr evaluate --mode all --limit 300 --seeds 0,1,2 --plot speed.png',
  )
  add = parser.add_argument
  add('--reader', help='reader or family; the one that ships by default')
  add(
    '--mode',
    default='all',
    help='joint, decomposed, binary, or all (all)',
  )
  add('--codec', help='of mode binary: calibrated, residual, sign or float')
  systems.add_bits_argument(parser)
  add('--cache', help='of mode binary; compressed or not')
  add(
    '--corpus',
    help='factbook, a folder or a file, as `btr ask` takes them (factbook)',
  )
  add(
    '--questions',
    help='questions with passages in the format of DPR, in place of --split; '
    'with --task in a format of that task',
  )
  questions.add_task_arguments(parser, required=False)
  add(
    '--permutations',
    choices=('none', 'cyclic'),
    default='none',
    help='of the choices of --task mmlu: cyclic asks each question with four '
    'orders of them, so that a liking for a letter evens out (none)',
  )
  add(
    '--split',
    default='test',
    help='of the Factbook: train, validation or test (test)',
  )
  add(
    '--limit',
    type=limit,
    default=300,
    help='questions of a sample, or `all` (300)',
  )
  add(
    '--seeds',
    type=common.integers,
    default=[0, 1, 2],
    help='one sample of questions each (0,1,2)',
  )
  add('--passages', type=common.positive, help="the reader's limit by default")
  add_speed_arguments(parser)
  add(
    '--parts',
    action='store_true',
    help='two programs for encoder and decoder, so that the record tells the '
    'time of each; slower than the one program that is timed otherwise',
  )
  merging_options.add_arguments(parser)
  add(
    '--int8-products',
    action='store_true',
    help='every system also with an encoder that multiplies in eight bits',
  )
  add('--build', action='store_true', help='make what is missing')
  add('--output', help='write the JSON record to this file')
  add('--plot', help='draw exact match against speed into this PNG')
  return parser
