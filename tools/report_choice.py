"""What the tables of a report are made of, from readers and questions."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import dataclasses
import json
import pathlib

from btr_jax import config as config_lib
from btr_jax.evaluation.study import settings
from btr_jax.models import reader_files
from btr_jax.tools import (
  common,
  report_arguments,
  report_baselines,
  report_task,
  systems,
)


def family_of(arguments: argparse.Namespace) -> pathlib.Path:
  """The folder of the family that the user named, or that ships.

  Raises:
    UserError: there is none, or it is a single reader.
  """
  path = systems.reader_path(arguments.reader)
  if not (path / reader_files.FAMILY_FILE).is_file():
    raise common.UserError(
      f'--reader {path} is no family: it has no {reader_files.FAMILY_FILE}. A '
      'report compares readers of all stages; pack them by `btr pack-family`.'
    )
  return path


def _codec_of(name: str, folder: pathlib.Path) -> str:
  codec = systems.default_codec(folder)
  if codec is None:
    raise common.UserError(
      f'--readers {name}={folder}: it has no codec, so it cannot stand in an '
      'ablation of the binary reader; give the reader of a stage 3.'
    )
  return codec


def _codec(
  asked: str | None, family: pathlib.Path, codecs: Sequence[str]
) -> str | None:
  """Of the ablations; None where the family has no binary reader."""
  if asked is not None and asked not in codecs:
    raise common.UserError(
      f'--codec {asked}: the family {family} has {", ".join(codecs) or "none"}.'
    )
  default = systems.default_codec(family)
  return asked or (default if default in codecs else next(iter(codecs), None))


def _any_reader(family: pathlib.Path) -> reader_files.LoadedReader:
  """For what all readers of a family share: limits, depth of the decoder."""
  members = json.loads((family / reader_files.FAMILY_FILE).read_text())
  members.pop('default_codec', None)
  if not members:
    raise common.UserError(f'the family {family} holds no reader.')
  return reader_files.load_reader(family / next(iter(members.values())))


def choose(
  arguments: argparse.Namespace, family: pathlib.Path, task: report_task.Task
) -> settings.Choice:
  """What the tables are made of, from the readers and questions at hand.

  Args:
    arguments: what is asked for; None where the readers decide.
    family: folder with the readers.
    task: its questions.

  Raises:
    UserError: more passages than the questions have, a codec that the family
      has not, or a further reader without one.
  """
  of_family = [s.name for s in systems.systems_of(family, 'all', None)]
  binary = [n for n in of_family if n.startswith('binary-')]
  codecs = [n.removeprefix('binary-') for n in binary]
  codec = _codec(arguments.codec, family, codecs)
  reader = _any_reader(family)
  most = max(len(record.contexts) for record in task.records)
  passages = arguments.passages or min(reader.limits.num_passages, most)
  counts = arguments.passage_counts
  if counts is None:
    counts = (
      report_arguments.FEW_PASSAGES
      if passages <= report_arguments.FEW_PASSAGES[-1]
      else report_arguments.PAPER_PASSAGES
    )
    counts = sorted({*(c for c in counts if c <= passages), passages})
  for count in (passages, *counts):
    if not 1 <= count <= most:
      raise common.UserError(
        f'{count} passages are asked for, and the questions have {most}; '
        'give --passages and --passage-counts from 1 to that.'
      )
  period = arguments.cross_period or min(3, reader.config.num_decoder_layers)
  return settings.Choice(
    systems=tuple(report_baselines.order(of_family)),
    codec=codec,
    passages=passages,
    passage_counts=tuple(counts),
    ratios=tuple(arguments.ratios),
    offline_ratio=arguments.offline_ratio,
    runtime_ratio=arguments.runtime_ratio,
    cross_period=period,
    trained={n: _codec_of(n, folder) for n, folder in arguments.readers},
  )


def wanted_of(
  made: Sequence[settings.Table],
  arguments: argparse.Namespace,
  choice: settings.Choice,
) -> dict[settings.Setting, bool]:
  """What --tables and --systems ask for, and what that is told against.

  Args:
    made: all tables.
    arguments: tables, systems, repeats.
    choice: whose systems may be named.

  Returns:
    Settings to run -> whether their speed is measured.

  Raises:
    ValueError: an unknown system.
  """
  asked = arguments.systems
  for name in asked or ():
    config_lib.check_choice('--systems', name, choice.systems)
  chosen = []
  for table in made:
    if table.name not in arguments.tables:
      continue
    if table.name == 'main' and asked:
      lines = [line for line in table.lines if line.setting.system in asked]
      table = dataclasses.replace(table, lines=tuple(lines))
    chosen.append(table)
  wanted = settings.to_run(chosen)
  missing = {s.baseline for s in wanted} - {None, *wanted}
  timed = {s: True for s in sorted(missing, key=lambda s: s.slug)}
  wanted = timed | wanted
  return {s: wanted[s] and arguments.repeats > 0 for s in wanted}
