"""`btr benchmark`: speed, cost and memory of readers over sizes and forms."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import concurrent.futures
import dataclasses
import itertools
import math
import pathlib
import tempfile
import time
from typing import Any

import jax

from btr_jax import config as config_lib
from btr_jax.cache import shard_encoder
from btr_jax.data import records as records_lib
from btr_jax.evaluation import (
  benchmark,
  benchmark_inputs,
  cost,
  environment,
  linearity,
  speed_report,
)
from btr_jax.tools import common, merging_options
from btr_jax.tools import progress as progress_lib

NOTES = (
  'All rows of a group read the same questions and passages, random tokens of '
  'one length; the reader is random too unless --reader names one.',
  'seconds: look-up of the batch, moving it to the device, and one program '
  'from tokens or bits to answers. Compilation is told apart.',
  'joint and decomposed find token ids in memory; float and binary read ids '
  'and states or bits from a cache on disk.',
  'Operations are counted in the program before optimization, bytes in the '
  'compiled one; both with as many decoder steps as answers may have tokens.',
  'roofline: the least time that operations or bytes could take at the stated '
  'rates, as a share of the median time without look-up.',
  'peak: arguments (parameters included), outputs and temporaries.',
)


def counts(text: str) -> list[int]:
  """Comma-separated integers above 0."""
  return [common.positive(part) for part in text.split(',') if part.strip()]


def make_parser() -> common.Parser:
  """The arguments."""
  parser = common.Parser(
    'benchmark',
    'Times readers on random passages: every mode and form of cross-attention '
    'on the same questions, in turns, beside operations, bytes and memory.',
    'btr benchmark --size small --passages 5,10,20 --plot speed.png',
  )
  add = parser.add_argument
  add('--size', default='tiny', help='tiny, small, base or large (tiny)')
  add('--reader', help='a reader or family in place of random weights')
  add('--codec', default='residual', help='of mode binary (residual)')
  add('--bits', type=common.positive, help='of codec residual; a quarter')
  add('--dtype', help='float32 or bfloat16; by default what the device likes')
  add(
    '--modes',
    type=merging_options.words,
    default=['joint', 'float', 'binary'],
    help='joint, decomposed, float, binary (joint,float,binary)',
  )
  add(
    '--cross',
    type=merging_options.words,
    default=['cached', 'absorbed'],
    help='reproject, cached, absorbed (cached,absorbed)',
  )
  merging_options.add_arguments(parser)
  add(
    '--int8-products',
    action='store_true',
    help='every row also with an encoder that multiplies in eight bits',
  )
  add('--passages', type=counts, default=[8], help='per question (8)')
  add('--batch', type=counts, default=[1], help='questions at once (1)')
  add('--question-length', type=common.positive, default=32, help='(32)')
  add('--passage-length', type=common.positive, default=128, help='(128)')
  add('--answer-length', type=common.positive, default=8, help='(8)')
  add(
    '--maximum-length',
    type=common.positive,
    help='also pad passages to this length, as Atlas does, for more groups',
  )
  add('--corpus-passages', type=common.positive, help='as many as are read')
  add('--repeats', type=common.positive, default=5, help='on the clock (5)')
  add('--seed', type=int, default=0, help='of weights and tokens (0)')
  add(
    '--torch',
    action='store_true',
    help="also Hugging Face's T5 on the same weights, float32",
  )
  add('--threads', type=common.positive, help='of torch; its own choice')
  add(
    '--margin',
    action='store_true',
    help='also the least distance between the best two logits',
  )
  add(
    '--retrieval',
    action='store_true',
    help='also BM25 over the prepared Factbook, on a line of its own',
  )
  add(
    '--time-limit',
    type=common.positive,
    help='seconds after which nothing more is compiled; rows that are left '
    'out are named (none)',
  )
  add(
    '--compile-threads',
    type=common.positive,
    default=1,
    help='rows compiled at one time; compile seconds are then those of a '
    'shared machine (1)',
  )
  add('--output', help='write the JSON record to this file')
  add('--plot', help='draw the rows into this PNG')
  return parser


def systems_of(arguments: argparse.Namespace) -> list[benchmark.System]:
  """The rows of every group, the baselines first.

  Raises:
    ValueError: an unknown mode, form or place, or a ratio out of range.
  """
  for mode in arguments.modes:
    config_lib.check_choice('--modes', mode, benchmark.MODES)
  for form in arguments.cross:
    config_lib.check_choice('--cross', form, config_lib.CROSS_ATTENTIONS)
  mergings = merging_options.configs(arguments)
  found = [
    benchmark.System(mode, form)
    for mode, form in itertools.product(arguments.modes, arguments.cross)
  ]
  if 'binary' in arguments.modes:
    found += [
      benchmark.System('binary', form, merging)
      for merging, form in itertools.product(mergings, arguments.cross)
    ]
  if arguments.int8_products:
    found += [
      dataclasses.replace(system, int8_products=True) for system in found
    ]
  return found


def workloads_of(
  arguments: argparse.Namespace,
) -> list[benchmark_inputs.Workload]:
  """One group each: padded to its bucket, and to the maximum if asked for."""
  length = arguments.passage_length
  maximum = arguments.maximum_length
  if maximum is not None and maximum < length:
    raise common.UserError(
      f'--maximum-length is {maximum}; expected at least --passage-length '
      f'({length}).'
    )
  buckets = shard_encoder.length_buckets(maximum or length)
  padded = [next(bucket for bucket in buckets if bucket >= length)]
  if maximum is not None and maximum not in padded:
    padded.append(maximum)
  return [
    benchmark_inputs.Workload(
      passages,
      batch,
      arguments.question_length,
      length,
      padded_length,
      arguments.answer_length,
    )
    for passages, batch, padded_length in itertools.product(
      arguments.passages, arguments.batch, padded
    )
  ]


def dtype_of(arguments: argparse.Namespace) -> str:
  """The type of the activations: what the device likes, unless told.

  Raises:
    ValueError: an unknown type.
  """
  on_cpu = jax.default_backend() == 'cpu'
  dtype = arguments.dtype or ('float32' if on_cpu else 'bfloat16')
  config_lib.check_choice('--dtype', dtype, config_lib.DTYPES)
  return dtype


def make_reader(arguments: argparse.Namespace) -> benchmark_inputs.Reader:
  """The reader that the arguments describe. Errors as `measure`."""
  dtype = dtype_of(arguments)
  if arguments.reader is None:
    config_lib.check_choice(
      '--size', arguments.size, tuple(benchmark_inputs.SIZES)
    )
    bits = arguments.bits
    if arguments.codec == 'residual' and bits is None:
      bits = benchmark_inputs.SIZES[arguments.size]['embed_dim'] // 4
    codec = config_lib.CodecConfig(arguments.codec, bits)
    return benchmark_inputs.random_reader(
      arguments.size, codec, dtype, arguments.seed
    )
  from btr_jax.models import reader_files

  loaded = reader_files.load_reader(
    arguments.reader, mode='binary', codec=arguments.codec
  )
  config = dataclasses.replace(loaded.config, dtype=dtype)
  return benchmark_inputs.Reader(config, loaded.params)


def _runners(
  arguments: argparse.Namespace,
  systems: Sequence[benchmark.System],
  corpus: benchmark_inputs.Corpus,
  workload: benchmark_inputs.Workload,
  deadline: float,
) -> tuple[dict[str, Any], list[str]]:
  """Compiled systems by name, and the names of those there was no time for."""
  for mode in {system.mode for system in systems} & {'float', 'binary'}:
    corpus.store(mode)  # Built once, ahead of the threads that ask for it.
  step_costs: dict[Any, Any] = {}

  def compiled(system: benchmark.System) -> benchmark.JaxRunner | None:
    if time.monotonic() > deadline:
      return None
    return benchmark.JaxRunner(system, corpus, workload, step_costs)

  found: dict[str, Any] = {}
  with (
    progress_lib.Progress('compiled') as progress,
    concurrent.futures.ThreadPoolExecutor(arguments.compile_threads) as pool,
  ):
    for system, runner in zip(
      systems, pool.map(compiled, systems), strict=True
    ):
      found[system.name] = runner
      progress(len(found), len(systems))
  skipped = [name for name, runner in found.items() if runner is None]
  runners = {name: runner for name, runner in found.items() if runner}
  if arguments.torch:
    from btr_jax.tools import torch_baseline

    runners[torch_baseline.NAME] = torch_baseline.TorchRunner(
      corpus, workload, arguments.threads
    )
  return runners, skipped


def _measure_group(
  arguments: argparse.Namespace,
  systems: Sequence[benchmark.System],
  corpus: benchmark_inputs.Corpus,
  workload: benchmark_inputs.Workload,
  roofline: cost.Roofline,
  deadline: float,
) -> dict[str, Any]:
  """One group of rows, as `speed_report.group` gives it, and what it lacks."""
  runners, skipped = _runners(arguments, systems, corpus, workload, deadline)
  with progress_lib.Progress(
    f'{workload.passages} passages, batch {workload.batch}'
  ) as progress:
    times = benchmark.take_turns(
      runners,
      lambda: corpus.ask(workload),
      arguments.repeats,
      progress=progress,
    )
  group = speed_report.group(
    workload, runners, times, roofline, margins=arguments.margin
  )
  common.console().print(speed_report.table(group))
  if skipped:
    common.say(f'no time was left for {", ".join(skipped)}')
  return group | {'skipped': skipped}


def measure(
  arguments: argparse.Namespace,
  reader: benchmark_inputs.Reader | None = None,
) -> dict[str, Any]:
  """Runs the benchmark that the arguments describe.

  Args:
    arguments: as `make_parser` gives them.
    reader: in place of the one that they describe, for those who measure it
      more than once.

  Returns:
    The record that the report shows and JSON keeps. With --output it is
    written after every group, so that whoever stops the run has the others.
  """
  deadline = time.monotonic() + (arguments.time_limit or math.inf)
  systems, workloads = systems_of(arguments), workloads_of(arguments)
  dtype = dtype_of(arguments)
  if reader is None:
    reader = make_reader(arguments)
  roofline = cost.roofline(dtype)
  record = {
    'command': 'benchmark',
    'size': arguments.size if arguments.reader is None else arguments.reader,
    'config': reader.config.to_dict(),
    'roofline': roofline.to_dict(),
    'repeats': arguments.repeats,
    'groups': [],
    'lines': [],
    'retrieval': None,
    'environment': environment.environment(),
    'notes': list(NOTES),
  }
  with tempfile.TemporaryDirectory() as folder:
    corpus = benchmark_inputs.Corpus(
      reader,
      arguments.corpus_passages or max(arguments.passages),
      arguments.passage_length,
      pathlib.Path(folder),
      arguments.seed + 1,
    )
    for workload in workloads:
      record['groups'].append(
        _measure_group(arguments, systems, corpus, workload, roofline, deadline)
      )
      record['lines'] = linearity.straight_lines(record['groups'])
      if arguments.output:
        records_lib.write_json(arguments.output, record)
  for line in record['lines']:
    common.console().print(linearity.sentence(line))
  record['retrieval'] = _retrieval(arguments)
  return record


def _retrieval(arguments: argparse.Namespace) -> dict[str, Any] | None:
  if not arguments.retrieval:
    return None
  from btr_jax.evaluation import throughput
  from btr_jax.tools import corpora

  corpus = corpora.load_corpus(corpora.FACTBOOK, build=False)
  questions = corpora.load_questions(None, 'test', build=False)[:32]
  passages = max(arguments.passages)
  speed = throughput.retrieval_speed(
    lambda asked: corpus.retriever.search(asked, passages),
    [record.question for record in questions],
  )
  return {
    'corpus': corpora.FACTBOOK,
    'corpus_passages': len(corpus.passages),
    'passages': passages,
    'seconds_per_question': speed.to_dict(),
  }


def main(argv: Sequence[str]) -> int:
  """Runs the command; see `--help`."""
  arguments = make_parser().parse_args(argv)
  record = measure(arguments)
  found = record['retrieval']
  if found:
    median = found['seconds_per_question']['median']
    common.console().print(
      f'retrieval, in no row: {1000 * median:.2f} ms per question (BM25, '
      f'{found["passages"]} of {found["corpus_passages"]} passages)'
    )
  if arguments.output:
    records_lib.write_json(arguments.output, record)
    common.say(f'record written to {arguments.output}')
  if arguments.plot:
    speed_report.plot(record, arguments.plot)
    common.say(f'picture written to {arguments.plot}')
  common.print_json(record)
  return common.EXIT_OK
