"""`btr quantize-reader`: a reader with matrices of four or eight bits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import pathlib
import statistics
import time
from typing import Any

import numpy as np
from rich import table as rich_table

from btr_jax import config as config_lib
from btr_jax.baselines.quantized import readers
from btr_jax.data import encoding
from btr_jax.models import model as model_lib
from btr_jax.models import quantized, reader_files
from btr_jax.tools import common, corpora, systems
from btr_jax.tools import progress as progress_lib

_BATCH = 8


def make_parser() -> common.Parser:
  """The arguments."""
  defaults = readers.QuantizationConfig()
  parser = common.Parser(
    'quantize-reader',
    'Writes a reader whose matrices are stored in few bits, for `btr evaluate '
    '--reader`, `btr ask` and the others to read like any reader. Matrices of '
    'attention and feed-forward layers are quantized; what their outputs lose '
    'is measured on the calibration questions.',
    'btr quantize-reader my_family --bits 4 --method gptq --output atlas_q',
  )
  add = parser.add_argument
  add('reader', nargs='?', help='reader or family (the one that ships)')
  add('--output', required=True, help='folder to write')
  add(
    '--mode',
    choices=config_lib.MODES,
    default='joint',
    help='which reader of a family, and how it answers (joint)',
  )
  add('--bits', type=int, choices=quantized.BITS, default=defaults.bits)
  add(
    '--method',
    choices=readers.METHODS,
    default=defaults.method,
    help='gptq keeps the outputs on the calibration questions, nearest rounds '
    'each weight by itself (gptq)',
  )
  add(
    '--group-size',
    type=common.positive,
    default=defaults.group_size,
    help='inputs that share a scale (128); many more for one scale a column',
  )
  add(
    '--embedding-bits',
    type=int,
    choices=readers.EMBEDDING_BITS,
    default=defaults.embedding_bits,
    help='of embedding and logits (16)',
  )
  add(
    '--sequential',
    action='store_true',
    help='measure the inputs of each layer after those before it are quantized',
  )
  add(
    '--questions',
    help='to calibrate with, in the format of DPR with passages and answers '
    '(the training questions of the Factbook; none for method nearest, which '
    'needs them only to tell what outputs lose)',
  )
  add(
    '--limit',
    type=common.positive,
    default=64,
    help='calibration questions (64)',
  )
  add('--seed', type=int, default=0, help='which of them (0)')
  add('--build', action='store_true', help='prepare the Factbook if need be')
  return parser


def calibration_batches(
  reader: reader_files.LoadedReader,
  questions: str | None,
  limit: int,
  seed: int,
  build: bool = False,
) -> list[dict[str, Any]]:
  """Batches of questions with passages and targets.

  Args:
    reader: whose vocabulary and limits they are made for.
    questions: a file; None takes the Factbook's training questions.
    limit: questions; rounded down to whole batches where there are more.
    seed: which are drawn.
    build: prepare the Factbook if it is not there.

  Raises:
    UserError: there is no such file, or too few questions with passages.
  """
  found = corpora.load_questions(questions, 'train', build=build)
  found = [record for record in found if record.contexts]
  if not found:
    raise common.UserError(
      f'--questions {questions}: none has passages to read; retrieve some '
      'first (`btr retrieve`).'
    )
  size = min(limit, len(found))
  chosen = np.random.default_rng(seed).choice(len(found), size, replace=False)
  batch = min(_BATCH, size)
  return [
    encoding.make_record_batch(
      reader.vocabulary,
      [found[i] for i in chosen[start : start + batch]],
      reader.limits,
    )
    for start in range(0, size - batch + 1, batch)
  ]


def _kind(name: str) -> str:
  """'encoder attention query' of 'encoder/layers_0/attention/query/kernel'."""
  stack, _, *parts, _ = name.split('/')
  return ' '.join((stack, *parts)).replace('_', ' ')


def _mean(values: Iterable[float | None]) -> float | None:
  """Of those that are known."""
  known = [value for value in values if value is not None]
  return statistics.fmean(known) if known else None


def _show(record: dict[str, Any], reports: list[readers.MatrixReport]) -> None:
  table = rich_table.Table(title=f'{record["bits"]} bits, {record["method"]}')
  for title in ('matrices', 'shape', 'number', 'output error', 'by nearest'):
    table.add_column(title, justify='left' if title == 'matrices' else 'right')
  kinds: dict[str, list[readers.MatrixReport]] = {}
  for report in reports:
    kinds.setdefault(_kind(report.name), []).append(report)

  def shown(values):
    mean = _mean(values)
    return '-' if mean is None else f'{mean:.3g}'

  for kind, each in kinds.items():
    table.add_row(
      kind,
      ' x '.join(map(str, each[0].shape)),
      str(len(each)),
      shown(r.error for r in each),
      shown(r.nearest_error for r in each),
    )
  console = common.console()
  console.print(table)
  console.print(
    f'weights: {record["model_bytes"]:,} bytes, from '
    f'{record["original_bytes"]:,} ({record["original_bytes_float32"]:,} in '
    'float32); an output error is a share of the mean square of the outputs'
  )


def main(argv: Sequence[str]) -> int:
  """Runs the command; see `--help`."""
  arguments = make_parser().parse_args(argv)
  config = readers.QuantizationConfig(
    arguments.bits,
    arguments.method,
    arguments.group_size,
    arguments.embedding_bits,
    arguments.sequential,
  )
  output = pathlib.Path(arguments.output)
  if (output / reader_files.READER_FILE).exists():
    raise common.UserError(
      f'--output {output} holds a reader already; name another folder.'
    )
  path = systems.reader_path(arguments.reader)
  reader = reader_files.load_reader(path, arguments.mode)
  started = time.perf_counter()
  batches, count = None, 0
  if arguments.questions or config.method == 'gptq':
    common.say('encoding the calibration questions')
    batches = calibration_batches(
      reader,
      arguments.questions,
      arguments.limit,
      arguments.seed,
      arguments.build,
    )
    count = sum(len(batch['question_tokens']) for batch in batches)
  with progress_lib.Progress('matrices') as progress:
    _, reports = readers.quantize_reader(
      reader,
      output,
      config,
      batches,
      provenance={'calibration_questions': count, 'seed': arguments.seed},
      progress=progress,
    )
  written = reader_files.load_reader(output, arguments.mode)
  record = {
    'command': 'quantize-reader',
    'reader': reader.path.name,
    'output': str(output),
    'mode': arguments.mode,
    'bits': config.bits,
    'method': config.method,
    'group_size': config.group_size,
    'embedding_bits': config.embedding_bits,
    'sequential': config.sequential,
    'calibration_questions': count,
    'matrices': len(reports),
    'output_error': _mean(report.error for report in reports),
    'nearest_output_error': _mean(report.nearest_error for report in reports),
    'model_bytes': written.model_bytes,
    'original_bytes': reader.model_bytes,
    'original_bytes_float32': sum(
      4 * value.size for value in model_lib.flat_params(reader.params).values()
    ),
    'seconds': time.perf_counter() - started,
  }
  _show(record, reports)
  common.print_json(record)
  return common.EXIT_OK
