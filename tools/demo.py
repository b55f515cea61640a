"""`btr demo`: the whole path on the World Factbook, with the shipped reader."""

from __future__ import annotations

from collections.abc import Sequence
import pathlib
import time

from btr_jax import config as config_lib
from btr_jax.serving import engine as engine_lib
from btr_jax.tools import (
  ask,
  caches,
  common,
  corpora,
  evaluate,
  evaluate_arguments,
  systems,
)
from btr_jax.tools import progress as progress_lib

# About countries of the test split.
QUESTIONS = (
  'What is the capital of Peru?',
  'How long is the coastline of Iceland?',
  'What is the highest point in Namibia?',
)
STEPS = 5


def make_parser() -> common.Parser:
  """The arguments."""
  parser = common.Parser(
    'demo',
    'Prepares the World Factbook, builds the caches with the reader that '
    'ships, evaluates every mode on countries that it was not trained on, '
    'draws the result and asks three questions.',
    'btr demo --limit 100',
  )
  parser.add_argument('--reader', help='another reader or family')
  parser.add_argument(
    '--limit',
    type=evaluate_arguments.limit,
    default=200,
    help='questions of each of the three samples, or `all` (200)',
  )
  parser.add_argument(
    '--repeats',
    type=common.positive,
    default=5,
    help='of the speed measurement (5)',
  )
  parser.add_argument(
    '--output',
    default='demo_results',
    help='folder for the record and the picture (demo_results)',
  )
  return parser


def main(argv: Sequence[str]) -> int:
  """Runs the command; see `--help`."""
  arguments = make_parser().parse_args(argv)
  started = time.monotonic()
  step = 0

  def next_step(title: str) -> None:
    nonlocal step
    step += 1
    spent = progress_lib.duration(time.monotonic() - started)
    common.say(f'\n[{step}/{STEPS}] {title} ({spent} so far)')

  reader_path = systems.reader_path(arguments.reader)  # before any work
  next_step('the World Factbook: passages, questions, retrieval')
  corpus = corpora.load_corpus(build=True)
  common.say(f'{len(corpus.passages):,} passages')

  next_step('the caches: every passage through the lower layers, once')
  chosen = systems.systems_of(reader_path, 'all', None)
  for system in chosen:
    if system.cached:
      reader = systems.load(reader_path, system)
      caches.open_cache(
        caches.default_path(reader, corpus),
        reader,
        corpus,
        build_missing=True,
        command='',
      )

  next_step(f'evaluation of {", ".join(system.name for system in chosen)}')
  options = ['--limit', str(arguments.limit or 'all')]
  options += ['--repeats', str(arguments.repeats)]
  if arguments.reader:
    options += ['--reader', arguments.reader]
  wanted = evaluate_arguments.make_parser().parse_args(options)
  record = evaluate.evaluate(wanted)
  evaluate.show(record)

  next_step('the picture')
  folder = pathlib.Path(arguments.output)
  evaluate.save(
    record, str(folder / 'evaluation.json'), str(folder / 'evaluation.png')
  )

  next_step('three questions, read from the bits')
  (system,) = systems.systems_of(reader_path, 'binary', None)
  reader = systems.load(reader_path, system)
  cache = caches.open_cache(
    caches.default_path(reader, corpus),
    reader,
    corpus,
    build_missing=True,
    command='',
  )
  engine = engine_lib.Engine(
    reader,
    corpus.passages,
    corpus.retriever,
    cache,
    mode=system.mode,
    config=config_lib.EngineConfig(fused=False),  # The parts are told.
  )
  answers = ask.ask(engine, QUESTIONS)
  seconds = time.monotonic() - started
  common.say(f'\ndone in {progress_lib.duration(seconds)}')
  common.print_json(
    {
      'command': 'demo',
      'seconds': seconds,
      'output': str(folder),
      'evaluation': {
        row['name']: {
          'em': row['em']['mean'],
          'em_kept': row['em_kept'],
          'questions_per_second': (
            row['speed']['questions_per_second']['median']
          ),
          'speedup': row['speed']['speedup']['median'],
          'bytes_per_token': row['bytes_per_token'],
        }
        for row in record['modes']
      },
      'answers': [
        {'question': a['question'], 'answer': a['answer']} for a in answers
      ],
    }
  )
  return common.EXIT_OK
