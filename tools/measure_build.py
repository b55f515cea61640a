"""`btr measure-build`: speed, memory and disk of building caches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import concurrent.futures
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
import numpy as np
import rich.table

from btr_jax import config
from btr_jax.cache import builder, writer
from btr_jax.cache import plan as plans
from btr_jax.data import records
from btr_jax.evaluation import environment
from btr_jax.models import model as model_lib
from btr_jax.models import reader_files
from btr_jax.tools import cache_scales, caches, common, corpora, systems
from btr_jax.tools import progress as progress_lib

_MEGABYTE = 1e6
_FINGERPRINTS = dict.fromkeys(('model', 'codec', 'tokenizer', 'corpus'), '-')
_MEMORY_LENGTH = 32
_MEMORY_SHARD = 1024
_LEAST = 10_000


def make_parser() -> common.Parser:
  """The arguments."""
  parser = common.Parser(
    'measure-build',
    "Builds caches and measures: passages per second beside the forward pass's "
    'own, memory from 10,000 to --most passages with a very small model, '
    'bytes per second of writing alone. Uses about 3 GB of --folder. About ten '
    'minutes on two cores; the record is written after every part.',
    'btr measure-build --output docs/results/cache_build.json',
  )
  parser.add_argument('--reader', help='the one that ships by default')
  parser.add_argument(
    '--passages', type=common.positive, default=3072, help='of the Factbook'
  )
  parser.add_argument('--repeats', type=common.positive, default=3)
  parser.add_argument(
    '--most', type=common.positive, default=1_000_000, help='for memory'
  )
  parser.add_argument(
    '--write-shards',
    type=common.positive,
    default=48,
    help='for writing alone, 13 MB each',
  )
  parser.add_argument('--folder', help='scratch; the temporary folder')
  parser.add_argument('--output', help='JSON file for the record')
  parser.add_argument('--memory-of', type=common.positive, help='(internal)')
  return parser


def _spread(values: Sequence[float]) -> dict[str, float]:
  return {
    'median': statistics.median(values),
    'min': min(values),
    'max': max(values),
  }


def _timed(work: Callable[[], Any]) -> float:
  start = time.perf_counter()
  work()
  return time.perf_counter() - start


def speed(
  reader: reader_files.LoadedReader,
  corpus: corpora.Corpus,
  folder: pathlib.Path,
  repeats: int,
  progress: Callable[[int, int], None],
) -> dict[str, Any]:
  """A build against the forward pass on the very same batches, in turns."""
  encode = caches.encode_function(reader)
  batches: list[np.ndarray] = []

  def recording(tokens: np.ndarray) -> dict[str, jax.Array]:
    batches.append(tokens)
    return encode(tokens)

  tokens_of = caches.passage_tokens(reader, corpus)
  count = len(corpus.passages)
  tokens = tokens_of(0, count)

  def build(name: str, source: Any, function: Any = encode) -> None:
    builder.build(
      folder / name,
      source,
      count,
      function,
      reader.model.codec_layout,
      caches.fingerprints(reader, corpus),
      vocab_size=reader.vocabulary.vocab_size,
      batches_in_flight=2 * len(jax.local_devices()),
    )

  def forward() -> None:
    in_flight: list[Any] = []
    for batch in batches:
      in_flight.append(encode(batch))
      if len(in_flight) > 2 * len(jax.local_devices()):
        jax.block_until_ready(in_flight.pop(0))
    jax.block_until_ready(in_flight)

  build('warm', lambda a, b: tokens[a:b], recording)
  rates: dict[str, list[float]] = {}
  for turn in range(repeats):
    works = (
      ('forward', forward),
      ('build', lambda t=turn: build(f'tokens{t}', lambda a, b: tokens[a:b])),
      ('build_and_tokenize', lambda t=turn: build(f'texts{t}', tokens_of)),
      ('tokenize', lambda: tokens_of(0, count)),
    )
    for number, (name, work) in enumerate(works, 1):
      rates.setdefault(name, []).append(count / _timed(work))
      progress(turn * len(works) + number, repeats * len(works))
  ratios = {
    name: _spread(
      [a / b for a, b in zip(rates[name], rates['forward'], strict=True)]
    )
    for name in ('build', 'build_and_tokenize')
  }
  flops = cache_scales.flops_per_passage(reader.model)
  return {
    'passages': count,
    'tokens': int((tokens != 0).sum()),
    'batches': len(batches),
    'passages_per_second': {k: _spread(v) for k, v in rates.items()},
    'of_the_forward_pass': ratios,
    'flops_per_padded_passage': flops,
  }


def _small_model() -> model_lib.BtrModel:
  reader = config.ReaderConfig(
    vocab_size=512,
    embed_dim=32,
    num_heads=2,
    head_dim=16,
    mlp_dim=64,
    num_encoder_layers=2,
    num_decoder_layers=1,
    split_layer=1,
    dropout_rate=0.0,
    codec=config.CodecConfig('calibrated'),
  )
  limits = config.InputLimits(
    question_length=16,
    passage_length=_MEMORY_LENGTH,
    answer_length=4,
    num_passages=1,
  )
  return model_lib.BtrModel(reader, limits, stage=3)


def memory_of(count: int, folder: pathlib.Path) -> dict[str, Any]:
  """Builds `count` passages in this process; its resident memory."""
  model = _small_model()
  params = jax.jit(
    lambda key: model.get_initial_variables(key, model.input_shapes())
  )(jax.random.key(0))['params']
  encode = jax.jit(model.encode_passages)

  def tokens_of(start: int, stop: int) -> np.ndarray:
    rows = np.arange(start, stop, dtype=np.int64)[:, None]
    column = np.arange(_MEMORY_LENGTH)
    tokens = (rows * 31 + column * 7) % 511 + 1
    return np.where(column < 8 + rows % 25, tokens, 0).astype(np.int32)

  seen: list[int] = []
  start = time.perf_counter()
  with progress_lib.Progress(f'memory of {count:,} passages') as progress:

    def sample(done: int, total: int) -> None:
      progress(done, total)
      if done >= min(total, 4 * _MEMORY_SHARD) and not seen:
        seen.append(_resident())

    builder.build(
      folder / f'memory{count}',
      tokens_of,
      count,
      lambda tokens: encode(params, tokens),
      model.codec_layout,
      _FINGERPRINTS,
      vocab_size=512,
      batch_size=256,
      passages_per_shard=_MEMORY_SHARD,
      progress=sample,
    )
  seconds = time.perf_counter() - start
  return {
    'passages': count,
    'seconds': seconds,
    'resident_bytes_after_four_shards': seen[0],
    'resident_bytes_at_the_end': _resident(),
    'peak_resident_bytes': _peak(),
  }


def _resident() -> int:
  pages = int(pathlib.Path('/proc/self/statm').read_text().split()[1])
  return pages * os.sysconf('SC_PAGE_SIZE')


def _peak() -> int:
  # Not ru_maxrss: that begins with what the parent had resident.
  lines = pathlib.Path('/proc/self/status').read_text().splitlines()
  line = next(line for line in lines if line.startswith('VmHWM'))
  return 1024 * int(line.split()[1])


def memory(most: int, folder: pathlib.Path) -> list[dict[str, Any]]:
  """One process for each number of passages, ten times as many each time."""
  found, count = [], min(_LEAST, most)
  while count <= most:
    result = subprocess.run(
      [
        *(sys.executable, '-m', 'btr_jax.tools.main', 'measure-build'),
        *('--memory-of', str(count), '--folder', str(folder)),
      ],
      stdout=subprocess.PIPE,
      text=True,
      check=True,
    )
    found.append(json.loads(result.stdout.splitlines()[-1]))
    count *= 10
  return found


def writing(
  folder: pathlib.Path, shards: int, progress: Callable[[int, int], None]
) -> list[dict[str, Any]]:
  """Bytes per second of `write_shard`, and of a file of the same size."""
  random = np.random.default_rng(0)
  plan = plans.plan(
    np.full(shards * 1024, 128),
    codec_kind='calibrated',
    bits_bytes=96,
    scale_bytes=2,
    vocab_size=32128,
    max_length=128,
    passages_per_shard=1024,
  )
  rows = plan.shard_rows(0)
  bits = random.integers(0, 256, (rows, 96), dtype=np.uint8)
  scale = random.integers(0, 256, (rows, 2), dtype=np.uint8)
  token_ids = random.integers(1, 32128, rows, dtype=np.int32)
  found = []
  ways = (1, 2, 4)
  for in_flight in ways:
    path = folder / f'write{in_flight}'
    with (
      writer.CacheWriter(path, plan, _FINGERPRINTS) as target,
      concurrent.futures.ThreadPoolExecutor(in_flight) as pool,
    ):
      seconds = _timed(
        lambda p=pool, t=target: list(
          p.map(
            lambda shard: t.write_shard(shard, bits, scale, token_ids),
            range(shards),
          )
        )
      )
    found.append(_written(f'{in_flight} shards in flight', plan, seconds))
    progress(len(found), len(ways) + 1)
    shutil.rmtree(path)
  block = b''.join([bits.tobytes(), scale.tobytes(), token_ids.tobytes()])

  def plain() -> None:
    with open(folder / 'plain', 'wb') as file:
      for _ in range(plan.data_bytes // len(block)):
        file.write(block)
      file.flush()
      os.fsync(file.fileno())

  found.append(_written('one plain file, one fsync', plan, _timed(plain)))
  progress(len(found), len(ways) + 1)
  (folder / 'plain').unlink()
  return found


def _written(
  name: str, plan: plans.CachePlan, seconds: float
) -> dict[str, Any]:
  return {
    'what': name,
    'bytes': plan.data_bytes,
    'seconds': seconds,
    'megabytes_per_second': plan.data_bytes / seconds / _MEGABYTE,
  }


def _show(record: dict[str, Any]) -> None:
  table = rich.table.Table(title='building caches')
  table.add_column('')
  table.add_column('', justify='right')
  measured = record['speed']
  for name, rate in measured['passages_per_second'].items():
    part = measured['of_the_forward_pass'].get(name)
    of = f' = {part["median"]:.1%} of forward' if part else ''
    words = name.replace('_', ' ')
    table.add_row(f'{words}, passages/s', f'{rate["median"]:,.0f}{of}')
  for row in record['memory']:
    table.add_row(
      f'memory of {row["passages"]:,} passages',
      f'{row["peak_resident_bytes"] / _MEGABYTE:,.0f} MB at most',
    )
  for row in record['writing']:
    table.add_row(row['what'], f'{row["megabytes_per_second"]:,.0f} MB/s')
  common.console().print(table)


def main(argv: Sequence[str]) -> int:
  """Runs the command; see `--help`."""
  arguments = make_parser().parse_args(argv)
  if arguments.memory_of:
    folder = pathlib.Path(arguments.folder)
    common.print_json(memory_of(arguments.memory_of, folder))
    return common.EXIT_OK
  path = systems.reader_path(arguments.reader)
  (system,) = systems.systems_of(path, 'binary', None)
  reader = systems.load(path, system)
  corpus = corpora.load_corpus()
  corpus = corpora.Corpus(corpus.name, corpus.passages[: arguments.passages])
  record: dict[str, Any] = {
    'command': 'measure-build',
    'environment': environment.environment(),
    'reader': system.name,
  }
  output = arguments.output and pathlib.Path(arguments.output)
  with tempfile.TemporaryDirectory(
    prefix='btr_measure_', dir=arguments.folder
  ) as name:
    folder = pathlib.Path(name)

    def write() -> Any:
      with progress_lib.Progress('writing') as progress:
        return writing(folder, arguments.write_shards, progress)

    def build() -> Any:
      with progress_lib.Progress('speed') as progress:
        return speed(reader, corpus, folder, arguments.repeats, progress)

    for part, work in (
      ('writing', write),
      ('speed', build),
      # Its processes tell their own progress.
      ('memory', lambda: memory(arguments.most, folder)),
    ):
      record[part] = work()
      record[f'load_average_after_{part}'] = os.getloadavg()[0]
      if output:
        records.write_json(output, record)
  _show(record)
  common.print_json(record)
  return common.EXIT_OK
