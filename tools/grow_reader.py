"""`btr grow-reader`: a deeper reader that begins as the shallower one."""

from __future__ import annotations

from collections.abc import Sequence

from btr_jax import config as config_lib
from btr_jax.models import growth, reader_files
from btr_jax.tools import common


def make_parser() -> common.Parser:
  """The arguments."""
  parser = common.Parser(
    'grow-reader',
    'Adds encoder layers that give the same answers as before until they are '
    'trained: for INITIAL_CHECKPOINT of a deeper reader. Layers above the '
    'split cost time for every question, layers below it only when a cache is '
    'built.',
    'btr grow-reader runs/stage2/reader --upper 1 --output runs/deeper',
  )
  add = parser.add_argument
  add('reader', help='reader or family')
  add('--mode', choices=config_lib.MODES, help='which reader of a family')
  add('--lower', type=int, default=0, help='layers below the split (0)')
  add('--upper', type=int, default=0, help='layers above the split (0)')
  add('--output', required=True, help='reader directory to write')
  return parser


def main(argv: Sequence[str]) -> int:
  """Runs the command; see `--help`.

  Raises:
    UserError: numbers that do not fit, or an output that is there.
  """
  arguments = make_parser().parse_args(argv)
  output = common.new_folder(arguments.output)
  reader = reader_files.load_reader(arguments.reader, mode=arguments.mode)
  try:
    config, params = growth.grow(
      reader.config, reader.params, arguments.lower, arguments.upper
    )
  except ValueError as error:
    raise common.UserError(str(error)) from error
  reader_files.save_reader(
    output,
    config,
    reader.limits,
    params,
    reader.vocabulary.path,
    extra_ids=reader.vocabulary.num_extra_ids,
    provenance={
      'grown_from': reader.fingerprint,
      'lower': arguments.lower,
      'upper': arguments.upper,
    },
  )
  common.say(
    f'{output}: {config.num_encoder_layers} layers, split after '
    f'{config.split_layer}'
  )
  common.print_json(
    {
      'command': 'grow-reader',
      'reader': str(output),
      'num_encoder_layers': config.num_encoder_layers,
      'split_layer': config.split_layer,
    }
  )
  return common.EXIT_OK
