"""`btr report`: the paper's tables from real runs, row by row."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
import time
from typing import Any

from btr_jax.evaluation import environment
from btr_jax.evaluation.study import ledger as ledger_lib
from btr_jax.evaluation.study import page, settings, tables
from btr_jax.tools import (
  common,
  report_arguments,
  report_baselines,
  report_choice,
  report_family,
  report_pages,
  report_rows,
  report_task,
  systems,
)
from btr_jax.tools import progress as progress_lib

EXIT_ROWS_FAILED = 1
NOTES = (
  'The joint reader computes keys and values of the cross-attention once per '
  'question; all other readers attend to the encoder states themselves where '
  'answers are shorter than a head is wide.',
  'joint, and decomposed without a cache, find the token ids of passages in '
  'memory; systems with a cache read ids and bits from its files on the clock.',
  '"of joint" and "speed-up" of a span reader are told against its own joint '
  'form, of all others against the joint reader.',
  'Weights are the files as stored; a language model counts its own.',
)


@dataclasses.dataclass
class Report:
  """A report on its way: what is wanted, and what is there.

  Attributes:
    arguments: from `report_arguments.parse`.
    task: questions and corpus.
    choice: what tables are made of.
    tables: all of them.
    wanted: settings to run -> whether their speed is needed.
    ledger: records on disk.
    rows: what runs them.
    found: records by setting.
    reasons: status and reason of settings without a record.
    counts: rows that ran, were kept, were not run, failed.
  """

  arguments: argparse.Namespace
  task: report_task.Task
  choice: settings.Choice
  tables: list[settings.Table]
  wanted: dict[settings.Setting, bool]
  ledger: ledger_lib.Ledger
  rows: report_rows.Rows
  found: dict[settings.Setting, Mapping[str, Any]]
  reasons: dict[settings.Setting, tuple[str, str]]
  counts: dict[str, int]


def prepare(arguments: argparse.Namespace) -> Report:
  """Reads questions and readers, and claims the folder.

  Raises:
    UserError, ValueError, OSError: see `--help`; OtherRunError where the
      folder holds rows of another run.
  """
  report_arguments.check(arguments)
  family = report_choice.family_of(arguments)
  task = report_task.load(arguments)
  choice = report_choice.choose(arguments, family, task)
  made = settings.tables_of(choice)
  wanted = report_choice.wanted_of(made, arguments, choice)
  others = report_baselines.sources(arguments, family, task)
  for folder in filter(None, (arguments.output, arguments.publish)):
    report_pages.check_folder(folder)
  ledger = ledger_lib.Ledger(pathlib.Path(arguments.output), task.name)
  machine = _machine()
  ledger.claim(
    report_task.identity(task, arguments) | {'machine': machine},
    restart=arguments.restart,
    look_only=arguments.dry_run,
  )
  options = report_rows.Options(
    batch=arguments.batch,
    speed_questions=arguments.speed_questions,
    repeats=arguments.repeats,
    row_seconds=60 * arguments.row_minutes,
  )
  source = report_family.FamilySource(
    family, dict(arguments.readers), task, arguments.offline_ratio
  )
  report = Report(
    arguments=arguments,
    task=task,
    choice=choice,
    tables=made,
    wanted=wanted,
    ledger=ledger,
    rows=report_rows.Rows(task, source, others, options),
    found={},
    reasons={},
    counts={'run': 0, 'kept': 0, 'not_run': 0, 'failed': 0},
  )
  for setting in settings.to_run(made) | wanted:
    _look_up(report, setting)
  return report


def _machine() -> dict[str, Any]:
  found = environment.environment()
  return {name: found[name] for name in ('cpu', 'cores', 'devices')}


def _look_up(report: Report, setting: settings.Setting) -> None:
  """Finds a row's record, or why there is none yet."""
  timed = report.wanted.get(setting, False)
  try:
    fingerprint = report.rows.fingerprint(setting)
  except report_rows.NotRun as error:
    report.reasons[setting] = tables.NOT_RUN, str(error)
    return
  record = report.ledger.read(setting.slug, fingerprint)
  if record is not None and not (timed and record['speed'] is None):
    report.found[setting] = record
    return
  reason = 'left out by --tables or --systems.'
  if setting in report.wanted:
    reason = 'not reached; the same command goes on.'
  report.reasons[setting] = tables.NOT_RUN, reason


def _run_row(report: Report, setting: settings.Setting) -> None:
  try:
    record = report.rows.run(setting, report.wanted[setting])
  except report_rows.NotRun as error:
    report.reasons[setting] = tables.NOT_RUN, str(error)
    report.counts['not_run'] += 1
    common.say(f'{setting.slug}: not run: {error}')
  except common.USER_ERRORS as error:
    text = f'{type(error).__name__}: {error}'
    report.reasons[setting] = tables.FAILED, text
    report.counts['failed'] += 1
    common.say(f'{setting.slug}: failed: {text}')
  else:
    report.ledger.write(setting.slug, record)
    report.found[setting] = record
    report.reasons.pop(setting, None)
    report.counts['run'] += 1


def run(report: Report) -> None:
  """Runs the rows that are wanted and not there yet, each written at once.

  Raises:
    KeyboardInterrupt: rows that are done stay.
  """
  waiting = [s for s in report.wanted if s not in report.found]
  report.counts['kept'] = len(report.wanted) - len(waiting)
  if report.counts['kept']:
    common.say(f'{report.counts["kept"]} rows are there already')
  start = time.monotonic()
  for number, setting in enumerate(waiting):
    left = ''
    if number:
      spent = time.monotonic() - start
      seconds = spent / number * (len(waiting) - number)
      left = f', {progress_lib.duration(seconds)} left'
    common.say(f'[{number + 1}/{len(waiting)}] {setting.slug}{left}')
    _run_row(report, setting)


def summary(report: Report) -> dict[str, Any]:
  """The tables of the task with what is there, as JSON values."""
  arguments, task = report.arguments, report.task
  metric = task.metric
  second = next((n for n in metric.shown if n != metric.headline), None)
  maker = tables.Maker(
    task.name, metric.headline, second, report.found, report.reasons
  )
  full = report.choice.full() if report.choice.codec else None
  made = []
  for table in report.tables:
    command = report_pages.command(arguments.parser, arguments, table.name)
    made.append(maker.make(table, full) | {'command': command})
  dates = sorted(r['environment']['date'] for r in report.found.values())
  commits = {r['environment']['git_commit'] for r in report.found.values()}
  return {
    'task': task.name,
    'conditions': {
      'questions': len(task.records),
      'source': task.source,
      'seeds': arguments.seeds[: len(task.samples)],
      'passages': report.choice.passages,
      'batch': arguments.batch,
      'machine': _machine(),
      'recall': task.recall(report.choice.passages),
      'cached': task.cached,
      'reader': common.short_path(arguments.reader or systems.SHIPPED),
      'codec': report.choice.codec,
      'cross_period': report.choice.cross_period,
      'dates': [dates[0], dates[-1]] if dates else [],
      'commits': sorted(filter(None, commits)),
      'versions': environment.environment()['versions'],
    },
    'tables': made,
    'notes': list(NOTES),
  }


def _headlines(made: Mapping[str, Any]) -> list[dict[str, Any]]:
  """The main table in the last line of the command."""
  return [
    {'label': row['label'], 'status': row['status'], **row['cells']}
    for row in made['tables'][0]['rows']
  ]


def _plan(report: Report) -> dict[str, Any]:
  """Shows which rows would run."""
  for setting, timed in report.wanted.items():
    state = 'there' if setting in report.found else 'to run'
    reason = report.reasons.get(setting, ('', ''))[1]
    text = '' if 'not reached' in reason or not reason else f' ({reason})'
    speed = 'answers and speed' if timed else 'answers'
    print(f'{state:<8} {setting.slug}: {speed}{text}')
  return {
    'task': report.task.name,
    'rows': len(report.wanted),
    'there': sum(setting in report.found for setting in report.wanted),
  }


def one_task(arguments: argparse.Namespace) -> dict[str, Any]:
  """Runs what is missing of one task, writes the page, shows the tables.

  Args:
    arguments: from `report_arguments.parse`.

  Returns:
    What the last line of the command says of it.
  """
  begun = time.monotonic()
  report = prepare(arguments)
  if arguments.dry_run:
    return _plan(report)
  try:
    run(report)
  finally:  # Also when it is stopped: the page shows what is there.
    made = summary(report)
    folders = [arguments.output, arguments.publish]
    report_pages.write(made, report.ledger, list(filter(None, folders)))
  console = common.console()
  for table in made['tables']:
    console.print(page.console_table(made, table))
  return {
    'task': report.task.name,
    'output': arguments.output,
    'rows': report.counts,
    'failed': report.counts['failed'],
    'seconds': time.monotonic() - begun,
    'main': _headlines(made),
  }


def main(argv: Sequence[str]) -> int:
  """Runs the command; see `--help`."""
  arguments = report_arguments.parse(argv)
  if arguments.tasks is None:
    record = one_task(arguments)
    done = [record]
  else:
    lines = report_arguments.task_lines(arguments.tasks)
    done = [one_task(report_arguments.parse([*argv, *line])) for line in lines]
    record = {'tasks': done}
  common.print_json({'command': 'report', **record})
  failed = any(found.get('failed') for found in done)
  return EXIT_ROWS_FAILED if failed else common.EXIT_OK
