"""`btr benchmark-data`: examples per second of the input pipeline."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
import dataclasses
import itertools
import os
import statistics
import tempfile
import time
from typing import Any

from rich import table as rich_table

from btr_jax.data import records
from btr_jax.data.benchmarks import preparation, table, task_files
from btr_jax.evaluation import environment
from btr_jax.tools import common, questions

NOTES = (
  'Batches come as the trainer gets them: read, parsed, answers drawn, '
  'tokenized by SentencePiece, padded, batched.',
  'CPU seconds are those of all threads of the process.',
  'A question with fewer passages than asked for has them repeated: the work '
  'of reading and tokenizing is that of so many passages.',
)


def tflops(text: str) -> float:
  """A number above 0."""
  try:
    value = float(text)
  except ValueError:
    value = 0.0
  if not value > 0:
    raise argparse.ArgumentTypeError(f'{text!r} is not a number above 0')
  return value


def make_parser() -> common.Parser:
  """The arguments."""
  parser = common.Parser(
    'benchmark-data',
    'Examples per second that the input pipeline of training gives on this '
    'machine, without a model. With --tflop-per-example (matrix products per '
    'step by `btr plan-train`, by the batch size) also the most that an '
    'accelerator could take.',
    'btr benchmark-data --task nq --questions train.jsonl --vocabulary '
    'spiece.model --tflop-per-example 7.1 --peak-tflops 989',
  )
  add = parser.add_argument
  add('--questions', help='file of questions')
  questions.add_task_arguments(parser, required=True)
  add('--corpus', help='where passages are looked up that are named by id')
  add('--vocabulary', required=True, help='SentencePiece model')
  add(
    '--num-passages',
    type=common.positive,
    help="per question; the paper's number by default",
  )
  add('--batch', type=common.positive, default=8, help='examples a step (8)')
  add('--steps', type=common.positive, default=40, help='of a repeat (40)')
  add('--repeats', type=common.positive, default=5, help='(5)')
  add(
    '--limit',
    type=common.positive,
    default=2000,
    help='questions that are read (2000)',
  )
  add(
    '--tflop-per-example', type=tflops, help='of a training step, by examples'
  )
  add(
    '--peak-tflops',
    type=tflops,
    default=989.0,
    help="the accelerator's peak; that of an H200 in bfloat16 (989)",
  )
  add('--output', help='write the JSON record to this file')
  return parser


def _filled(
  path: str, limit: int, num_passages: int
) -> Iterator[records.Record]:
  """The first records, with passages repeated up to a number."""
  for record in itertools.islice(records.iterate_records(path), limit):
    again = itertools.cycle(record.contexts)
    yield dataclasses.replace(
      record, contexts=tuple(itertools.islice(again, num_passages))
    )


def _measure(
  batches: Iterator[Any], batch: int, steps: int, repeats: int
) -> dict[str, list[float]]:
  next(batches)  # Starts TensorFlow's threads, and the vocabulary.
  wall, processor = [], []
  for _ in range(repeats):
    start, start_processor = time.perf_counter(), time.process_time()
    for _ in range(steps):
      next(batches)
    wall.append((time.perf_counter() - start) / (steps * batch))
    processor.append((time.process_time() - start_processor) / (steps * batch))
  return {
    'examples_per_second': [1 / value for value in wall],
    'cpu_seconds_per_example': processor,
  }


def _spread(values: Sequence[float]) -> dict[str, float]:
  return {
    'median': statistics.median(values),
    'smallest': min(values),
    'largest': max(values),
  }


def benchmark(arguments: argparse.Namespace) -> dict[str, Any]:
  """Runs the measurement that the arguments describe; gives its record."""
  from btr_jax.training import sources

  known = table.benchmark(arguments.task)
  arguments.num_passages = arguments.num_passages or known.limits.num_passages
  limits = dataclasses.replace(
    known.limits, num_passages=arguments.num_passages
  )
  inputs = dataclasses.replace(questions.inputs(arguments), training=True)
  prepared = preparation.prepared(inputs, task_files.default_folder())
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, f'{arguments.task}.jsonl')
    count = records.write_records(
      path, _filled(prepared, arguments.limit, limits.num_passages)
    )
    words = statistics.fmean(
      len(context.text.split())
      for record in itertools.islice(records.iterate_records(path), 100)
      for context in record.contexts
    )
    source = sources.SeqioSource(
      arguments.task,
      f'btr_jax.tasks.{arguments.task}',
      task_files.TaskFiles(
        arguments.task,
        questions={'train': path},
        vocabulary=arguments.vocabulary,
        num_passages=limits.num_passages,
      ),
    )
    batches = source.batches('train', limits, arguments.batch, seed=0)
    found = _measure(
      batches, arguments.batch, arguments.steps, arguments.repeats
    )
    batches.close()
  rate = _spread(found['examples_per_second'])
  processor = _spread(found['cpu_seconds_per_example'])
  record = {
    'command': 'benchmark-data',
    'task': arguments.task,
    'questions': count,
    'words_per_passage': round(words, 1),
    'limits': limits.to_dict(),
    'batch_size': arguments.batch,
    'steps': arguments.steps,
    'repeats': arguments.repeats,
    'examples_per_second': rate,
    'cpu_seconds_per_example': processor,
    'examples_per_cpu_second': 1 / processor['median'],
    'bound': None,
    'environment': environment.environment(),
    'notes': list(NOTES),
  }
  if arguments.tflop_per_example:
    most = arguments.peak_tflops / arguments.tflop_per_example
    record['bound'] = {
      'tflop_per_example': arguments.tflop_per_example,
      'peak_tflops': arguments.peak_tflops,
      'most_examples_per_second': most,
      'pipeline_over_bound': rate['median'] / most,
      'pipeline_over_bound_per_core': record['examples_per_cpu_second'] / most,
    }
  return record


def show(record: dict[str, Any]) -> None:
  """Prints the table."""
  rate, processor = (
    record['examples_per_second'],
    record['cpu_seconds_per_example'],
  )
  shown = rich_table.Table(
    title=f'{record["task"]}: {record["limits"]["num_passages"]} passages of '
    f'{record["words_per_passage"]} words, batch {record["batch_size"]}, '
    f'{record["environment"]["cores"]} core(s)'
  )
  shown.add_column('')
  shown.add_column('median', justify='right')
  shown.add_column('least', justify='right')
  shown.add_column('most', justify='right')
  for name, values, digits in (
    ('examples per second', rate, 1),
    ('CPU seconds per example', processor, 5),
  ):
    shown.add_row(
      name,
      *(
        f'{values[key]:.{digits}f}' for key in ('median', 'smallest', 'largest')
      ),
    )
  bound = record['bound']
  if bound:
    shown.add_section()
    shown.add_row(
      f'at most, at {bound["peak_tflops"]:g} TFLOP/s',
      f'{bound["most_examples_per_second"]:.1f}',
    )
    shown.add_row('pipeline over that', f'{bound["pipeline_over_bound"]:.2f}x')
    shown.add_row(
      'one core of CPU time over that',
      f'{bound["pipeline_over_bound_per_core"]:.2f}x',
    )
  common.console().print(shown)


def main(argv: Sequence[str]) -> int:
  """Runs the command; see `--help`."""
  arguments = make_parser().parse_args(argv)
  record = benchmark(arguments)
  show(record)
  if arguments.output:
    records.write_json(arguments.output, record)
    common.say(f'record written to {arguments.output}')
  common.print_json(record)
  return common.EXIT_OK
