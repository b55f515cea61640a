"""`btr evaluate`: exact match, F1, questions per second, bytes per token."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import dataclasses
import os
import pathlib
from typing import Any

from btr_jax import cache as cache_lib
from btr_jax.data import records as records_lib
from btr_jax.evaluation import environment, evaluator, report, throughput
from btr_jax.retrieval import recall
from btr_jax.serving import engine as engine_lib
from btr_jax.tools import caches, common, corpora, systems
from btr_jax.tools import progress as progress_lib

RECALL_CUTOFFS = (1, 5, 8, 20)
NOTES = (
  'All systems read the same questions and passages in one process, padded '
  'the same: to the longest passage of a batch, rounded up to 16 tokens.',
  'Questions per second leave retrieval out (see `retrieval`) and leave '
  'compilation out (see `compile_seconds`).',
  'joint and decomposed find the token ids of the passages in memory; systems '
  'with a cache read ids and bits from its files on the clock (look_up).',
  'decomposed recomputes the lower layers for every question; '
  'decomposed-cached reads their states from a bfloat16 cache.',
  'bytes_per_token is everything in the folder of the cache, token ids and '
  'manifest included, by the tokens of the corpus.',
)


def limit(text: str) -> int | None:
  """`all`, or an integer above 0."""
  return None if text == 'all' else common.positive(text)


def repeats(text: str) -> int:
  """An integer of at least 0."""
  return 0 if text == '0' else common.positive(text)


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
  add('--cache', help='of mode binary; compressed or not')
  add(
    '--corpus',
    default=corpora.FACTBOOK,
    help='factbook, or a file of {"id", "title", "text"} lines (factbook)',
  )
  add(
    '--questions',
    help='questions with passages in the format of DPR, in place of --split',
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
  add('--build', action='store_true', help='make what is missing')
  add('--output', help='write the JSON record to this file')
  add('--plot', help='draw exact match against speed into this PNG')
  return parser


@dataclasses.dataclass
class _Running:
  """A system with its engine and its cache."""

  system: systems.System
  engine: engine_lib.Engine
  storage: dict[str, Any] | None


def _start(
  system: systems.System,
  reader_path: pathlib.Path,
  corpus: corpora.Corpus,
  arguments: argparse.Namespace,
) -> _Running:
  reader = systems.load(reader_path, system)
  cache = None
  storage = None
  if system.cached:
    path = (
      pathlib.Path(arguments.cache)
      if arguments.cache
      else caches.default_path(reader, corpus)
    )
    wanted = argparse.Namespace(
      reader=arguments.reader, corpus=arguments.corpus, codec=system.codec
    )
    cache = caches.open_cache(
      path,
      reader,
      corpus,
      build_missing=arguments.build,
      command=caches.build_command(path, wanted),
    )
    storage = cache_lib.storage_report(path)
  engine = engine_lib.Engine(
    reader,
    corpus.passages,
    cache=cache,
    mode=system.mode,
    num_passages=arguments.passages,
  )
  return _Running(system, engine, storage)


def _row(
  running: _Running,
  scores: dict[str, evaluator.Score],
  speed: throughput.ModeSpeed | None,
  joint_em: float | None,
) -> dict[str, Any]:
  em = scores['em'].mean
  storage = running.storage
  return {
    'name': running.system.name,
    'mode': running.system.mode,
    'codec': running.system.codec,
    'em': scores['em'].to_dict(),
    'f1': scores['f1'].to_dict(),
    'em_kept': 100 * em / joint_em if joint_em else None,
    'speed': speed.to_dict() if speed else None,
    'bytes_per_token': storage['total']['bytes_per_token'] if storage else 0.0,
    'storage': storage,
  }


def _recall(
  records: Sequence[records_lib.Record], passages: int
) -> dict[str, float]:
  """recall@k in per cent, for the usual k and the number of passages read."""
  found = max(len(record.contexts) for record in records)
  cutoffs = sorted({k for k in (*RECALL_CUTOFFS, passages) if k <= found})
  values = recall.recall_at_k(map(recall.judge, records), cutoffs)
  return {str(k): 100 * value for k, value in values.items()}


def _predict_all(
  running: Sequence[_Running],
  records: Sequence[records_lib.Record],
  batch_size: int,
) -> dict[str, list[str]]:
  found = {}
  for one in running:
    with progress_lib.Progress(f'answers of {one.system.name}') as progress:
      found[one.system.name] = evaluator.predict(
        one.engine, records, batch_size=batch_size, progress=progress
      )
  return found


def evaluate(arguments: argparse.Namespace) -> dict[str, Any]:
  """Runs the evaluation that the arguments describe.

  Args:
    arguments: as `make_parser` gives them.

  Returns:
    The record that `report` shows and JSON keeps.
  """
  reader_path = systems.reader_path(arguments.reader)
  chosen = systems.systems_of(reader_path, arguments.mode, arguments.codec)
  if arguments.cache and arguments.mode != 'binary':
    raise common.UserError(
      f'--cache {arguments.cache} is the cache of one system; use it with '
      '--mode binary.'
    )
  corpus = corpora.load_corpus(arguments.corpus, build=arguments.build)
  records = corpora.load_questions(
    arguments.questions, arguments.split, build=arguments.build
  )
  samples = evaluator.sample_questions(
    len(records), arguments.limit, arguments.seeds
  )
  needed = sorted(set().union(*samples))
  renumbered = {number: place for place, number in enumerate(needed)}
  samples = [[renumbered[number] for number in sample] for sample in samples]
  records = [records[number] for number in needed]

  running = [
    _start(system, reader_path, corpus, arguments) for system in chosen
  ]
  passages = running[0].engine.num_passages
  predictions = _predict_all(running, records, arguments.batch)
  scores = {
    name: evaluator.score(found, records, samples)
    for name, found in predictions.items()
  }
  speeds: dict[str, throughput.ModeSpeed] = {}
  retrieval = None
  if arguments.repeats:
    timed = records[: arguments.speed_questions]
    with progress_lib.Progress('speed') as progress:
      speeds = throughput.measure(
        {one.system.name: one.engine for one in running},
        timed,
        batch_size=arguments.batch,
        repeats=arguments.repeats,
        progress=progress,
      )
    retrieval = throughput.retrieval_speed(
      lambda asked: corpus.retriever.search(asked, passages),
      [record.question for record in timed],
    ).to_dict()
  joint = scores.get('joint')
  return {
    'command': 'evaluate',
    'reader': os.path.basename(os.path.normpath(reader_path)),
    'split': arguments.questions or f'{corpora.FACTBOOK} {arguments.split}',
    'num_questions': len(samples[0]),
    'num_passages': passages,
    'batch_size': arguments.batch,
    'seeds': arguments.seeds[: len(samples)],
    'recall': _recall(records, passages),
    'modes': [
      _row(
        one,
        scores[one.system.name],
        speeds.get(one.system.name),
        joint['em'].mean if joint else None,
      )
      for one in running
    ],
    'speed_questions': min(arguments.speed_questions, len(records)),
    'speed_repeats': arguments.repeats,
    'retrieval': {'seconds_per_question': retrieval},
    'environment': environment.environment(),
    'notes': list(NOTES),
  }


def show(record: dict[str, Any]) -> None:
  """Prints the table, and the lines that belong beside it."""
  console = common.console()
  console.print(report.table(record))
  found = ', '.join(
    f'@{k} {value:.1f} %' for k, value in record['recall'].items()
  )
  console.print(f'recall of the retrieved passages (the ceiling): {found}')
  seconds = record['retrieval']['seconds_per_question']
  if seconds:
    console.print(
      f'retrieval, not in the table: {1000 * seconds["median"]:.2f} ms per '
      'question'
    )


def save(record: dict[str, Any], output: str | None, plot: str | None) -> None:
  """Writes the record and the picture, if they were asked for."""
  if output:
    records_lib.write_json(output, record)
    common.say(f'record written to {output}')
  if plot:
    report.plot(record, plot)
    common.say(f'picture written to {plot}')


def main(argv: Sequence[str]) -> int:
  """Runs the command; see `--help`."""
  arguments = make_parser().parse_args(argv)
  if arguments.plot and not arguments.repeats:
    raise common.UserError(
      '--plot draws speed, and --repeats 0 leaves it out; drop one of them.'
    )
  record = evaluate(arguments)
  show(record)
  save(record, arguments.output, arguments.plot)
  common.print_json(record)
  return common.EXIT_OK
