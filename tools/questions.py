"""Questions of the public benchmarks, for the commands that read them."""

from __future__ import annotations

import argparse
from typing import Any

from btr_jax.data import records
from btr_jax.data.benchmarks import preparation, table, task_files
from btr_jax.tools import common


def add_task_arguments(parser: argparse.ArgumentParser, required: bool) -> None:
  """Adds --task, --retrieved and --strict."""
  parser.add_argument(
    '--task',
    choices=tuple(table.BENCHMARKS),
    required=required,
    help='what the questions are; decides their format and their metric',
  )
  parser.add_argument(
    '--retrieved',
    help='passages of the questions, if these do not hold them: objects with '
    '"ctxs", or TSV of qid, passage_ids, scores; ids are looked up in --corpus',
  )
  parser.add_argument(
    '--strict',
    action='store_true',
    help='stop at the first line that cannot be used, in place of counting',
  )


def inputs(arguments: argparse.Namespace) -> preparation.Inputs:
  """What the arguments name.

  Raises:
    UserError: --task without --questions.
  """
  if not arguments.questions:
    known = table.benchmark(arguments.task)
    raise common.UserError(
      f'--task {arguments.task} needs --questions, a file with '
      f'{known.formats}. Published: {known.published}.'
    )
  return preparation.Inputs(
    arguments.task,
    arguments.questions,
    arguments.retrieved,
    arguments.corpus,
    num_passages=getattr(arguments, 'num_passages', None),
    strict=arguments.strict,
    training=getattr(arguments, 'training', False),
  )


def load(
  arguments: argparse.Namespace,
) -> tuple[list[records.Record], dict[str, Any]]:
  """Prepares the questions, or finds them prepared, and reads them.

  Returns:
    The records, and the report of their preparation.

  Raises:
    UserError, FileNotFoundError, ValueError: see `inputs` and
      `preparation.prepare`.
  """
  path = preparation.prepared(inputs(arguments), task_files.default_folder())
  return records.read_records(path), preparation.read_report(path).to_dict()
