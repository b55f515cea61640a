"""Systems of the paper's table that are no reader of a family."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
import pathlib

from btr_jax.evaluation.study import settings
from btr_jax.tools import (
  common,
  report_quantized,
  report_rows,
  report_sources,
  report_task,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds where the models of these systems are."""
  parser.add_argument(
    '--language-model',
    type=pathlib.Path,
    metavar='PATH',
    help=f'of the row {settings.LANGUAGE_MODEL}: a folder of the Llama family '
    'as transformers writes it, or a GGUF file',
  )
  parser.add_argument(
    '--lora',
    type=pathlib.Path,
    metavar='FOLDER',
    help=f'of the row {settings.LANGUAGE_MODEL}: matrices that `btr tune-lm` '
    'trained for its model (none)',
  )
  parser.add_argument(
    '--phrases',
    type=pathlib.Path,
    metavar='FOLDER',
    help=f'of the row {settings.PHRASES}: what `btr phrases train` wrote; its '
    'index is built if it is missing',
  )
  parser.add_argument(
    '--span-reader',
    type=pathlib.Path,
    metavar='FOLDER',
    help=f'of the rows {" and ".join(settings.SPAN)}: what `btr span-reader '
    'train` wrote',
  )
  parser.add_argument(
    '--calibration',
    type=pathlib.Path,
    metavar='FILE',
    help='of the rows joint-int4 and joint-int8: questions with passages that '
    'are trained on, in the format of DPR; of the Factbook those of its '
    'training split by default',
  )


def order(of_family: Sequence[str]) -> list[str]:
  """All systems in the order of the main table."""
  first = [n for n in of_family if n in (settings.JOINT, 'joint-absorbed')]
  rest = [n for n in of_family if n not in first]
  others = (settings.PHRASES, settings.LANGUAGE_MODEL, *settings.SPAN)
  return [*first, *settings.QUANTIZED, *rest, *others]


def sources(
  arguments: argparse.Namespace,
  family: pathlib.Path,
  task: report_task.Task,
) -> Mapping[str, report_rows.Source]:
  """Where each of the systems comes from."""
  quantized = report_quantized.QuantizedSource(
    family, task, arguments.calibration
  )
  lora = arguments.lora
  if lora is not None and arguments.language_model is None:
    raise common.UserError(
      f'--lora {lora} is of no model; expected --language-model beside it.'
    )
  if lora is not None and not lora.is_dir():
    raise common.UserError(f'--lora {lora}: there is no such folder.')
  span = _given(
    arguments.span_reader,
    '--span-reader',
    lambda path: report_sources.SpanSource(path, task),
  )
  return {
    **dict.fromkeys(settings.QUANTIZED, quantized),
    **dict.fromkeys(settings.SPAN, span),
    settings.PHRASES: _given(
      arguments.phrases,
      '--phrases',
      lambda path: report_sources.PhraseSource(path, task),
    ),
    settings.LANGUAGE_MODEL: _given(
      arguments.language_model,
      '--language-model',
      lambda path: report_sources.LanguageModelSource(
        path, lora, arguments.batch
      ),
    ),
  }


def _given(
  path: pathlib.Path | None,
  option: str,
  make: Callable[[pathlib.Path], report_rows.Source],
) -> report_rows.Source:
  """A source whose model the user must name.

  Raises:
    UserError: the path that was named is not there.
  """
  if path is None:
    return report_sources.Missing(f'no model is given by {option}.')
  if not path.exists():
    raise common.UserError(f'{option} {path}: there is nothing there.')
  return make(path)
