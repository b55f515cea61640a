"""`btr delta`: a reader as what it adds to another, and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
import pathlib
import shutil

from btr_jax.interop import deltas
from btr_jax.models import reader_files
from btr_jax.tools import common

# Deltas that come with the package.
ASSETS = pathlib.Path(reader_files.__file__).parents[1] / 'assets'


def make_parser() -> common.Parser:
  """The arguments."""
  parser = common.Parser(
    'delta',
    'pack: writes what a reader trained by adapters (ADAPTER_RANK) adds to the '
    'reader it started from, a few megabytes. apply: makes the reader of the '
    'base and the delta. Deltas are folders; those that come with the package '
    'are known by name.',
    'btr delta apply --base readers/flan_small --delta open_qa '
    '--output readers/open_qa',
  )
  add = parser.add_argument
  add('action', choices=['pack', 'apply'])
  add('--base', required=True, help='reader that training started from')
  add('--reader', help='pack: reader that training made')
  add('--base-name', help='pack: tells people where to get the base')
  add('--delta', required=True, help='folder of the delta')
  add('--output', help='apply: reader directory to write')
  add('--force', action='store_true', help='replace what is there')
  return parser


@contextlib.contextmanager
def _written(path: pathlib.Path, arguments) -> Iterator[pathlib.Path]:
  """A folder beside `path` that takes its place when all is written.

  Raises:
    UserError: `path` is there, and --force is not given; or it holds what is
      read.
  """
  for read in (arguments.base, arguments.reader):
    if read and pathlib.Path(read).resolve().is_relative_to(path.resolve()):
      raise common.UserError(
        f'{path} would be written over {read}, which is read; expected another '
        'folder.'
      )
  if path.exists() and not arguments.force:
    raise common.UserError(
      f'{path} is there already; expected a new folder. Give another, or '
      '--force to replace it.'
    )
  aside = path.with_name(f'.{path.name}.new')
  shutil.rmtree(aside, ignore_errors=True)
  try:
    yield aside
    if path.exists():
      shutil.rmtree(path)
    aside.rename(path)
  finally:
    shutil.rmtree(aside, ignore_errors=True)


def _pack(arguments) -> dict:
  if not arguments.reader or not arguments.base_name:
    raise common.UserError('pack needs --reader and --base-name.')
  base = reader_files.load_reader(arguments.base, mode='joint')
  reader = reader_files.load_reader(arguments.reader)
  folder = pathlib.Path(arguments.delta)
  with _written(folder, arguments) as aside:
    size = deltas.save(aside, base, reader, arguments.base_name)
  whole = reader.model_bytes
  common.say(f'{folder}: {size / 1e6:.2f} MB in place of {whole / 1e6:.1f} MB')
  return {'delta': str(folder), 'bytes': size, 'reader_bytes': whole}


def _apply(arguments) -> dict:
  if not arguments.output:
    raise common.UserError('apply needs --output, the reader to write.')
  named = pathlib.Path(arguments.delta)
  shipped = ASSETS / arguments.delta
  folder = named if named.exists() or not shipped.exists() else shipped
  delta = deltas.load(folder)
  base = reader_files.load_reader(arguments.base, mode='joint')
  params = deltas.applied(delta, base.params)
  output = pathlib.Path(arguments.output)
  with _written(output, arguments) as aside:
    reader_files.save_reader(
      aside,
      delta.config,
      delta.limits,
      params,
      base.vocabulary.path,
      extra_ids=delta.extra_ids,
      provenance={**delta.provenance, 'base': dict(delta.base)},
    )
    reader_files.load_reader(aside)  # Refuses what does not fit.
  reader = reader_files.load_reader(output)
  common.say(
    f'{output}: {delta.base["name"]} and {folder.name}, codec '
    f'{reader.config.codec.kind}'
  )
  return {
    'reader': str(output),
    'delta': folder.name,
    'base': dict(delta.base),
    'bytes': reader.model_bytes,
  }


def main(argv: Sequence[str]) -> int:
  """Runs the command; see `--help`."""
  arguments = make_parser().parse_args(argv)
  act = _pack if arguments.action == 'pack' else _apply
  common.print_json(
    {'command': 'delta', 'action': arguments.action, **act(arguments)}
  )
  return common.EXIT_OK
