"""`btr evaluate`: scores, questions per second, bytes per token."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import dataclasses
import functools
import os
import pathlib
from typing import Any

from btr_jax import cache as cache_lib
from btr_jax import config as config_lib
from btr_jax.data import records as records_lib
from btr_jax.data.benchmarks import table as benchmarks
from btr_jax.evaluation import (
  environment,
  evaluator,
  multiple_choice,
  report,
  task_metrics,
  throughput,
)
from btr_jax.retrieval import recall
from btr_jax.serving import engine as engine_lib
from btr_jax.tools import (
  caches,
  common,
  corpora,
  evaluate_arguments,
  merging_options,
  questions,
  systems,
)
from btr_jax.tools import progress as progress_lib

RECALL_CUTOFFS = (1, 5, 8, 20)
NOTES = (
  'All systems read the same questions and passages in one process, padded '
  'the same: to the longest passage of a batch, rounded up to 32 tokens.',
  'joint computes keys and values of the cross-attention once per question; '
  'joint-absorbed and all other rows attend to the encoder states themselves '
  'where answers are shorter than a head is wide.',
  'Questions per second leave retrieval out (see `retrieval`) and leave '
  'compilation out (see `compile_seconds`).',
  'One program reads a batch from tokens or bits to answers, and `encode` '
  'is the time of all of it; with --parts two, told apart.',
  'joint and decomposed find the token ids of the passages in memory; systems '
  'with a cache read ids and bits from its files on the clock (look_up).',
  'decomposed recomputes the lower layers for every question; '
  'decomposed-cached reads their states from a bfloat16 cache.',
  'bytes_per_token is everything in the folder of the cache, token ids and '
  'manifest included, by the tokens of the corpus.',
)


@dataclasses.dataclass
class _Running:
  """A system with its engine and its cache."""

  system: systems.System
  engine: engine_lib.Engine
  storage: dict[str, Any] | None


def _start(
  system: systems.System,
  reader_path: pathlib.Path,
  corpus: corpora.Corpus | None,
  arguments: argparse.Namespace,
  metric: task_metrics.TaskMetric,
) -> _Running:
  reader = systems.load(reader_path, system)
  cache = None
  storage = None
  if system.cached:
    if corpus is None:
      raise common.UserError(
        f'the system {system.name} reads a cache, and there is no corpus to '
        'build it from; give --corpus, or --mode joint or decomposed.'
      )
    path = (
      pathlib.Path(arguments.cache)
      if arguments.cache
      else caches.default_path(reader, corpus)
    )
    wanted = argparse.Namespace(
      reader=arguments.reader,
      corpus=arguments.corpus or corpora.FACTBOOK,
      codec=system.codec,
    )
    cache = caches.open_cache(
      path,
      reader,
      corpus,
      build_missing=arguments.build,
      command=caches.build_command(path, wanted),
    )
    storage = cache_lib.storage_report(path)
  engine_type = (
    multiple_choice.LetterEngine if metric.letters else engine_lib.Engine
  )
  engine = engine_type(
    reader,
    corpus.passages if corpus else (),
    cache=cache,
    mode=system.mode,
    num_passages=arguments.passages,
    inference=config_lib.InferenceConfig(
      system.cross_attention,
      system.merging,
      int8_products=system.int8_products,
    ),
    config=config_lib.EngineConfig(fused=not arguments.parts),
  )
  return _Running(system, engine, storage)


def _row(
  running: _Running,
  scores: dict[str, evaluator.Score],
  speed: throughput.ModeSpeed | None,
  headline: str,
  joint: dict[str, evaluator.Score] | None,
) -> dict[str, Any]:
  joint_mean = joint[headline].mean if joint else None
  storage = running.storage
  return {
    'name': running.system.name,
    'mode': running.system.mode,
    'codec': running.system.codec,
    'cross_attention': running.system.cross_attention,
    'merging': dataclasses.asdict(running.system.merging),
    'int8_products': running.system.int8_products,
    **{name: score.to_dict() for name, score in scores.items()},
    'em_kept': 100 * scores[headline].mean / joint_mean if joint_mean else None,
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
  metric: task_metrics.TaskMetric,
  arguments: argparse.Namespace,
) -> dict[str, list[str]]:
  # There is nothing to read without passages: such an answer is empty.
  readable = [i for i, record in enumerate(records) if record.contexts]
  found = {}
  for one in running:
    predict = evaluator.predict
    if metric.letters:
      predict = functools.partial(
        multiple_choice.predict, cyclic=arguments.permutations == 'cyclic'
      )
    with progress_lib.Progress(f'answers of {one.system.name}') as progress:
      answers = predict(
        one.engine,
        [records[i] for i in readable],
        batch_size=arguments.batch,
        progress=progress,
      )
    by_record = dict(zip(readable, answers, strict=True))
    found[one.system.name] = [by_record.get(i, '') for i in range(len(records))]
  return found


def _load_records(
  arguments: argparse.Namespace,
) -> tuple[list[records_lib.Record], dict[str, Any] | None]:
  """The questions; with --task also what preparing them found."""
  if arguments.task:
    return questions.load(arguments)
  found = corpora.load_questions(
    arguments.questions, arguments.split, build=arguments.build
  )
  return found, None


def _load_corpus(arguments: argparse.Namespace) -> corpora.Corpus | None:
  """The corpus that caches are built from; none is needed for --task."""
  if arguments.task and arguments.corpus is None:
    return None
  given = arguments.corpus or corpora.FACTBOOK
  return corpora.load_corpus(given, build=arguments.build)


def evaluate(arguments: argparse.Namespace) -> dict[str, Any]:
  """Runs the evaluation that the arguments describe.

  Args:
    arguments: as `evaluate_arguments` gives them.

  Returns:
    The record that `report` shows and JSON keeps.
  """
  reader_path = systems.reader_path(arguments.reader)
  chosen = systems.merged(
    systems.systems_of(
      reader_path, arguments.mode, systems.codec_of(arguments)
    ),
    merging_options.configs(arguments),
  )
  if arguments.int8_products:
    chosen += systems.in_eight_bits(chosen)
  if arguments.cache and arguments.mode != 'binary':
    raise common.UserError(
      f'--cache {arguments.cache} is the cache of one system; use it with '
      '--mode binary.'
    )
  metric = task_metrics.SQUAD
  if arguments.task:
    metric = task_metrics.metric(benchmarks.benchmark(arguments.task).metric)
  if arguments.permutations != 'none' and not metric.letters:
    raise common.UserError(
      '--permutations changes the order of choices; expected --task mmlu.'
    )
  records, preparation = _load_records(arguments)
  if any(system.cached for system in chosen) or not arguments.task:
    corpus = _load_corpus(arguments)
  else:
    corpus = None
  samples = evaluator.sample_questions(
    len(records), arguments.limit, arguments.seeds
  )
  needed = sorted(set().union(*samples))
  renumbered = {number: place for place, number in enumerate(needed)}
  samples = [[renumbered[number] for number in sample] for sample in samples]
  records = [records[number] for number in needed]

  running = [
    _start(system, reader_path, corpus, arguments, metric) for system in chosen
  ]
  passages = running[0].engine.num_passages
  predictions = _predict_all(running, records, metric, arguments)
  scores = {
    name: evaluator.score(found, records, samples, metric)
    for name, found in predictions.items()
  }
  speeds: dict[str, throughput.ModeSpeed] = {}
  retrieval = None
  if arguments.repeats:
    timed = [r for r in records if r.contexts][: arguments.speed_questions]
    with progress_lib.Progress('speed') as progress:
      speeds = throughput.measure(
        {one.system.name: one.engine for one in running},
        timed,
        batch_size=arguments.batch,
        repeats=arguments.repeats,
        progress=progress,
      )
    if not arguments.task:
      retrieval = throughput.retrieval_speed(
        lambda asked: corpus.retriever.search(asked, passages),
        [record.question for record in timed],
      ).to_dict()
  joint = scores.get('joint')
  return {
    'command': 'evaluate',
    'reader': os.path.basename(os.path.normpath(reader_path)),
    'task': arguments.task,
    'metrics': list(metric.shown),
    'permutations': arguments.permutations,
    'questions': preparation,
    'split': arguments.questions or f'{corpora.FACTBOOK} {arguments.split}',
    'num_questions': len(samples[0]),
    'num_passages': passages,
    'batch_size': arguments.batch,
    'seeds': arguments.seeds[: len(samples)],
    'recall': _recall(records, passages) if metric.in_passages else {},
    'modes': [
      _row(
        one,
        scores[one.system.name],
        speeds.get(one.system.name),
        metric.headline,
        joint,
      )
      for one in running
    ],
    'programs': 2 if arguments.parts else 1,
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
  if found:
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
  arguments = evaluate_arguments.make_parser().parse_args(argv)
  if arguments.plot and not arguments.repeats:
    raise common.UserError(
      '--plot draws speed, and --repeats 0 leaves it out; drop one of them.'
    )
  record = evaluate(arguments)
  show(record)
  save(record, arguments.output, arguments.plot)
  common.print_json(record)
  return common.EXIT_OK
