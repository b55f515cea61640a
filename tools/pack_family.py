"""`btr pack-family`: trained stages as one directory for `load_reader`.

Weights are stored in bfloat16, the vocabulary once for all readers. Stages that
were not trained are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import json
import pathlib
import shutil

from btr_jax.models import reader_files
from btr_jax.tools import common

MEMBERS = {
  'joint': 'stage1',
  'decomposed': 'stage2',
  'calibrated': 'stage3_calibrated',
  'residual': 'stage3_residual',
}


def make_parser() -> common.Parser:
  """The arguments."""
  parser = common.Parser(
    'pack-family',
    'Packs the readers of the three stages into one family directory.',
    'btr pack-family --stages runs/factbook_tiny/stages --output my_family',
  )
  parser.add_argument(
    '--stages', required=True, help='MODEL_DIR that the stages were trained in'
  )
  parser.add_argument('--output', required=True, help='folder to write')
  parser.add_argument(
    '--default-codec',
    default='residual',
    choices=('calibrated', 'residual'),
    help='what mode binary takes (residual)',
  )
  parser.add_argument(
    '--decomposed',
    default='stage2',
    choices=('stage2', 'residual'),
    help='residual: the reader of stage 3 serves mode decomposed too, by its '
    'floats; nothing is stored twice (stage2)',
  )
  parser.add_argument(
    '--num-passages',
    type=common.positive,
    help="passages that all readers shall read (each stage's own)",
  )
  return parser


def pack(
  stages: pathlib.Path,
  output: pathlib.Path,
  default_codec: str,
  num_passages: int | None = None,
  decomposed: str = 'stage2',
) -> int:
  """Writes the family, once all of its readers were read; family.json last.

  Args:
    stages: holds stage1/reader, stage2/reader, stage3_<codec>/reader, or some.
    output: the family directory.
    default_codec: of mode binary.
    num_passages: that all readers shall read, if stages were trained with
      fewer; None keeps each stage's own.
    decomposed: `stage2`, or `residual` for no reader of its own.

  Returns:
    Bytes written.

  Raises:
    ReaderFileError: a reader is damaged, or the default codec's or the one
      that mode decomposed shall take is missing.
  """
  needed = {default_codec}
  if decomposed == 'residual':
    needed.add('residual')
  readers = {}
  for member, stage in MEMBERS.items():
    source = stages / stage / 'reader'
    if member == 'decomposed' and decomposed == 'residual':
      continue
    if member in needed or source.is_dir():
      readers[member] = reader_files.load_reader(source)
  family = {name: name for name in readers} | {'default_codec': default_codec}
  if decomposed == 'residual':
    family['decomposed'] = 'residual'
  # Until the end it is no family, and members that it had are not these.
  marker = output / reader_files.FAMILY_FILE
  if marker.is_file():
    marker.unlink()
    for member in set(MEMBERS) - set(readers):
      shutil.rmtree(output / member, ignore_errors=True)
  for member, reader in readers.items():
    limits = reader.limits
    if num_passages is not None:
      limits = dataclasses.replace(limits, num_passages=num_passages)
    reader_files.save_reader(
      output / member,
      reader.config,
      limits,
      reader.params,
      reader.vocabulary.path,
      extra_ids=reader.vocabulary.num_extra_ids,
      provenance=reader.provenance,
      dtype='bfloat16',
      shared_vocabulary=True,
    )
  reader_files.write_atomically(
    marker,
    (json.dumps(family, indent=2, sort_keys=True) + '\n').encode(),
  )
  return sum(f.stat().st_size for f in output.rglob('*') if f.is_file())


def main(argv: Sequence[str]) -> int:
  """Runs the command; see `--help`."""
  arguments = make_parser().parse_args(argv)
  output = pathlib.Path(arguments.output)
  size = pack(
    pathlib.Path(arguments.stages),
    output,
    arguments.default_codec,
    arguments.num_passages,
    arguments.decomposed,
  )
  common.say(f'{output}: {size / 1e6:.1f} MB')
  common.print_json(
    {'command': 'pack-family', 'output': str(output), 'bytes': size}
  )
  return common.EXIT_OK
