"""What the cache of a corpus will take that is not there yet."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import pathlib
import sys
from typing import Any

import jax

from btr_jax import config
from btr_jax.cache import layout, scale
from btr_jax.cache import plan as plans
from btr_jax.evaluation import storage
from btr_jax.models import model as model_lib
from btr_jax.tools import cache_plans, common, systems
from btr_jax.tools import progress as progress_lib


def _number(text: str) -> float:
  try:
    value = float(text)
  except ValueError:
    value = 0.0
  if not (value > 0 and math.isfinite(value)):
    raise argparse.ArgumentTypeError(f'{text!r} is not a number above 0')
  return value


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """The arguments of a plan for a corpus that is not there."""
  group = parser.add_argument_group('plan of a corpus to come')
  group.add_argument(
    '--passages', type=common.positive, help='how many it will have'
  )
  group.add_argument(
    '--tokens-per-passage',
    type=_number,
    help='of the tokenizer, on average; the length of padding by default',
  )
  group.add_argument(
    '--gin_file', help='reader of that configuration, such as btr_base.gin'
  )
  group.add_argument(
    '--scale-bits',
    type=int,
    choices=config.SCALE_BITS,
    help="of a token's scale, as codec.scale_bits; the reader's by default",
  )
  group.add_argument(
    '--rate', type=_number, help='passages per second of a device'
  )
  group.add_argument(
    '--assumed',
    action='store_true',
    help='--rate was not measured: the plan and its record say so',
  )
  group.add_argument(
    '--peak-flops', type=_number, help='of a device, where no rate is known'
  )
  group.add_argument(
    '--utilisation', type=_number, help='of the peak, with --peak-flops'
  )
  group.add_argument('--hosts', type=common.positive, default=1)
  group.add_argument('--devices-per-host', type=common.positive, default=1)
  group.add_argument(
    '--write-rate',
    type=_number,
    default=300e6,
    help='bytes per second of a host (300e6)',
  )
  group.add_argument(
    '--tokenize-rate',
    type=_number,
    help='passages per second that a host tokenizes: process 0 all of them '
    'before the first is encoded, then every host its own while they are '
    'encoded; not counted by default',
  )
  group.add_argument(
    '--restart-seconds',
    type=_number,
    default=600.0,
    help='until a host that died is replaced (600)',
  )
  group.add_argument('--output', help='JSON file, a list, to add the record to')


def _model(arguments: Any) -> model_lib.BtrModel:
  """Of the gin file, or of the reader on disk."""
  changes: dict[str, Any] = {}
  if arguments.gin_file:
    from btr_jax import train

    train.parse_config([arguments.gin_file], ["MODEL_DIR = 'unused'"])
    given = train.build_arguments('reader', 'limits')
    reader, limits = given['reader'], given['limits']
    if arguments.codec:
      changes['kind'] = arguments.codec
  else:
    path = systems.reader_path(arguments.reader)
    (system,) = systems.systems_of(path, 'binary', arguments.codec)
    loaded = systems.load(path, system)
    reader, limits = loaded.config, loaded.limits
  if arguments.scale_bits:
    changes['scale_bits'] = arguments.scale_bits
  codec = dataclasses.replace(reader.codec, **changes)
  reader = dataclasses.replace(reader, codec=codec)
  return model_lib.BtrModel(reader, limits, stage=3)


def flops_per_passage(model: model_lib.BtrModel) -> int:
  """Operations in the matrix products that encode one padded passage."""
  from btr_jax.training import planning

  params = jax.eval_shape(
    lambda key: model.get_initial_variables(key, model.input_shapes()),
    jax.random.key(0),
  )['params']
  tokens = jax.ShapeDtypeStruct((1, model.limits.passage_length), 'int32')
  program = jax.make_jaxpr(model.encode_passages)(params, tokens)
  return planning.matrix_flops(program.jaxpr)


def show_scale(arguments: Any) -> dict[str, Any]:
  """Time, disk and device-hours of a corpus that is not there."""
  model = _model(arguments)
  codec, length = model.codec_layout, model.limits.passage_length
  tokens = arguments.tokens_per_passage or float(length)
  if tokens > length:
    raise common.UserError(
      f'--tokens-per-passage is {tokens:g}; this reader takes passages of at '
      f'most {length} tokens.'
    )
  flops = flops_per_passage(model)
  rate = arguments.rate
  basis = f'{"assumed" if arguments.assumed else "measured"}, by --rate'
  if rate is None:
    if not (arguments.peak_flops and arguments.utilisation):
      raise common.UserError(
        'give --rate, passages per second that a device was measured at, or '
        '--peak-flops and --utilisation to calculate it.'
      )
    rate = arguments.peak_flops * arguments.utilisation / flops
    basis = (
      f'calculated: {arguments.utilisation:.0%} of '
      f'{arguments.peak_flops / 1e12:g} TFLOP/s'
    )
  shape = layout.make_layout(
    codec_kind=codec.kind,
    bits_bytes=codec.bits_bytes,
    scale_bytes=codec.scale_bytes,
    vocab_size=model.config.vocab_size,
    max_length=length,
    passages_per_shard=arguments.passages_per_shard
    or plans.default_passages_per_shard(arguments.passages),
    num_passages=arguments.passages,
    num_tokens=round(arguments.passages * tokens),
    lengths_sha256='',
  )
  passages, sizes = scale.shard_sizes(shape, tokens)
  start, pace = 0.0, rate * arguments.devices_per_host
  if arguments.tokenize_rate:
    start = arguments.passages / arguments.tokenize_rate
    pace = min(pace, arguments.tokenize_rate)
  hosts = [scale.Host(pace, arguments.write_rate)] * arguments.hosts
  whole = scale.simulate(passages, sizes, hosts, start=start)
  deaths = {
    name: scale.simulate(
      passages,
      sizes,
      hosts,
      start=start,
      death=scale.Death(
        0, (start + whole.seconds) / 2, arguments.restart_seconds, together
      ),
    )
    for name, together in (('one_job', True), ('independent', False))
  }
  devices = arguments.hosts * arguments.devices_per_host
  memory = (scale.WRITES_IN_FLIGHT + 1) * max(sizes)
  hours = whole.seconds / 3600
  size = sum(sizes)
  rows = [
    ('passages', f'{arguments.passages:,} of {tokens:g} tokens'),
    ('shards', f'{shape.num_shards:,} of {storage.amount(max(sizes))}'),
    ('size', storage.amount(size)),
    ('bytes per token', f'{size / shape.num_tokens:.2f}'),
    ('operations per passage', f'{flops / 1e9:.3g} GFLOP'),
    ('passages/s of a device', f'{rate:,.0f} ({basis})'),
    ('passages/s of a host', f'{pace:,.0f}'),
    ('machines', f'{arguments.hosts} x {arguments.devices_per_host} devices'),
    ('time', progress_lib.duration(whole.seconds)),
    ('device-hours', f'{hours * devices:,.2f}'),
    ('waiting for writes', progress_lib.duration(whole.waiting_seconds)),
    ('host memory for shards, at most', storage.amount(memory)),
  ]
  for name, outcome in deaths.items():
    rows.append(
      (
        f'time if a host dies halfway ({name.replace("_", " ")})',
        f'{progress_lib.duration(outcome.seconds)}, '
        f'{outcome.lost_passages:,} passages encoded twice',
      )
    )
  common.console().print(cache_plans.pairs_table('plan, simulated', rows))
  record = {
    'passages': arguments.passages,
    'tokens_per_passage': tokens,
    'codec': codec.kind,
    'codec_bytes': [codec.bits_bytes, codec.scale_bytes],
    'shards': shape.num_shards,
    'bytes': size,
    'bytes_per_token': size / shape.num_tokens,
    'flops_per_passage': flops,
    'rate': rate,
    'rate_basis': basis,
    'host_rate': pace,
    'hosts': arguments.hosts,
    'devices_per_host': arguments.devices_per_host,
    'write_rate': arguments.write_rate,
    'tokenize_rate': arguments.tokenize_rate,
    'restart_seconds': arguments.restart_seconds,
    'hours': hours,
    'device_hours': hours * devices,
    'host_memory_bytes': memory,
    'simulated': dataclasses.asdict(whole),
    'host_dies_halfway': {
      name: dataclasses.asdict(outcome) for name, outcome in deaths.items()
    },
  }
  if arguments.output:
    _add_to(pathlib.Path(arguments.output), record)
  return record


def _add_to(path: pathlib.Path, record: dict[str, Any]) -> None:
  records = json.loads(path.read_text()) if path.exists() else []
  command = ' '.join(['btr', *sys.argv[1:]])
  records.append({'command': command} | record)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(records, indent=1) + '\n')
