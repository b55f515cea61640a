"""`btr plan-train`: memory and operations of a training run, before it runs."""

from __future__ import annotations

from collections.abc import Sequence
import time
from typing import Any

from rich import table as rich_table

from btr_jax.tools import common

_GIB = 2**30


def _use_virtual_devices(count: int) -> None:
  import jax

  try:
    jax.config.update('jax_platforms', 'cpu')
    jax.config.update('jax_num_cpu_devices', count)
  except RuntimeError:
    pass  # JAX runs already, with the devices that the next lines look for.
  if len(jax.devices()) < count:
    raise common.UserError(
      f'--devices is {count}, but JAX was started with {len(jax.devices())} '
      'devices in this process; run `btr plan-train` in one of its own.'
    )


def _configuration(gin_file: str, flags: Sequence[str]) -> dict[str, Any]:
  """What the gin file binds, as for training, but without a MODEL_DIR."""
  from btr_jax import train

  files, bindings, paths = train.parse_flags([f'--gin_file={gin_file}', *flags])
  # Files that ask for it must be usable here: nothing is written.
  train.parse_config(files, ["MODEL_DIR = 'unused'", *bindings], paths)
  return train.build_arguments(
    'stage', 'reader', 'limits', 'recipe', 'optimizer', 'mesh'
  )


def _show(plan: dict[str, Any]) -> None:
  mesh = plan['mesh']
  table = rich_table.Table(
    title=f'stage {plan["stage"]}: {plan["parameters"] / 1e6:,.1f} M '
    f'parameters, batch {plan["batch_size"]} in {plan["microbatches"]} '
    f'part(s), mesh {mesh["data"]} x {mesh["model"]} (data x model)'
  )
  table.add_column('')
  table.add_column('per device', justify='right')
  table.add_column('all, once', justify='right')

  def gib(number):
    return f'{number / _GIB:.3f} GiB'

  names = {
    'parameters': 'parameters',
    'optimizer': 'optimizer state',
    'carried': 'carried (teacher)',
    'batch': 'batch',
    'gradients': 'gradients',
    'kept': 'kept for the gradient',
  }
  for name, title in names.items():
    total = plan['total_bytes'].get(name)
    table.add_row(
      title, gib(plan['bytes'][name]), gib(total) if total is not None else ''
    )
  table.add_row('sum', gib(sum(plan['bytes'].values())), '')
  compiled = plan.get('compiled')
  if compiled:
    table.add_section()
    backend = compiled['backend']
    table.add_row(f'arguments ({backend})', gib(compiled['arguments']), '')
    table.add_row(f'temporaries ({backend})', gib(compiled['temporaries']), '')
    table.add_row(f'peak ({backend})', gib(compiled['peak']), '')
  table.add_section()
  table.add_row(
    'matrix products per step',
    f'{plan["matrix_flops"] / 1e12:.3f} TFLOP',
    f'{plan["matrix_flops_all_devices"] / 1e12:.3f} TFLOP',
  )
  if compiled:
    table.add_row(
      f'all operations ({backend})',
      f'{compiled["flops"] / 1e12:.3f} TFLOP',
      '',
    )
  common.console().print(table)


def main(argv: Sequence[str]) -> int:
  """Plans the stages that the gin file trains; nothing is allocated."""
  parser = common.Parser(
    'plan-train',
    'Memory and operations per device of one training step. The program is '
    'compiled for as many devices as --devices says, without parameters or '
    'data. Flags --gin.NAME=VALUE are those of training.',
    'btr plan-train --gin_file=gin_configs/btr_base.gin --devices 8 '
    '--gin.STAGE=1',
  )
  parser.add_argument(
    '--gin_file', required=True, help='the file that training would take'
  )
  parser.add_argument(
    '--devices',
    type=common.positive,
    help='virtual CPU devices (default: the devices that are there)',
  )
  parser.add_argument(
    '--no-compile',
    action='store_true',
    help='shapes, shardings and matrix products only: seconds, not minutes',
  )
  options, flags = parser.parse_known_args(argv)
  unknown = [flag for flag in flags if not flag.startswith('--gin')]
  if unknown:
    parser.error(f'unrecognized arguments: {" ".join(unknown)}')
  if options.devices:
    _use_virtual_devices(options.devices)

  # JAX's devices are settled; now what needs them.
  import jax

  from btr_jax.training import partitioning, planning
  from btr_jax.training import recipe as recipe_lib

  given = _configuration(options.gin_file, flags)
  devices = jax.devices()[: options.devices or None]
  mesh = partitioning.make_mesh(given.pop('mesh'), devices)
  plans = []
  for stage in recipe_lib.check_stage(given.pop('stage')):
    began = time.monotonic()
    common.say(f'Planning stage {stage} on {len(devices)} devices ...')
    plan = planning.plan_stage(
      stage, mesh=mesh, compiled=not options.no_compile, **given
    )
    plan['seconds'] = round(time.monotonic() - began, 1)
    _show(plan)
    plans.append(plan)
  common.print_json(
    {
      'gin_file': options.gin_file,
      'flags': flags,
      'device_kind': devices[0].device_kind,
      'dtype': given['reader'].dtype,
      'remat': given['reader'].remat,
      'optimizer': given['optimizer'].name,
      'limits': given['limits'].to_dict(),
      'stages': plans,
    }
  )
  return common.EXIT_OK
