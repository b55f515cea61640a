"""`btr convert`: checkpoints of other programs in and out."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import dataclasses
import pathlib
import tempfile
from typing import Any

import rich.console
import rich.markup
import rich.table

from btr_jax import config as config_lib
from btr_jax.data.folders import replacing
from btr_jax.evaluation import storage
from btr_jax.interop import checkpoint as checkpoint_lib
from btr_jax.interop import (
  folders,
  formats,
  huggingface,
  names,
  onnx_packages,
  reading,
  retrievers,
  writing,
)
from btr_jax.tools import common

# First part of a parameter's name, or all of it -> how people call it.
_GROUPS = {
  'token_embedder': 'embedding',
  'encoder': 'encoder',
  'decoder': 'decoder',
  names.LOGITS: 'logits',
  'codec': 'token codec',
}


def make_parser() -> common.Parser:
  """The arguments."""
  parser = common.Parser(
    'convert',
    'Converts a reader between this project (btr), Hugging Face T5 '
    '(huggingface), Atlas (atlas) and T5X (t5x); also reads a T5 in ONNX '
    'files (onnx). Every tensor is named and compared, kept bit for bit, and '
    'read back.',
    'btr convert flan-t5-base readers/base --vocabulary spiece.model',
  )
  parser.add_argument(
    'source',
    help='file or folder to read, or traceforge-title-model, a package of PyPI '
    'with a Flan-T5-small',
  )
  parser.add_argument('destination', help='file (atlas) or folder to write')
  parser.add_argument(
    '--from',
    dest='source_format',
    choices=formats.SOURCES,
    help='format of the source (told by its files)',
  )
  parser.add_argument(
    '--to',
    dest='destination_format',
    choices=formats.FAMILIES,
    default='btr',
    help='format of the destination (btr)',
  )
  parser.add_argument(
    '--dtype',
    choices=('keep', *checkpoint_lib.DTYPES),
    default='keep',
    help='of the tensors written (keep: those of the source)',
  )
  parser.add_argument(
    '--part',
    choices=('reader', 'retriever'),
    default='reader',
    help='retriever: the sentence encoder of Atlas or Contriever, as a folder '
    'for `btr retrieve --encoder` (reader)',
  )
  parser.add_argument(
    '--force', action='store_true', help='replace a checkpoint that is there'
  )
  source = parser.add_argument_group('what a source may not say')
  source.add_argument(
    '--config',
    type=pathlib.Path,
    help='config.json of Hugging Face, or reader.json (beside the weights)',
  )
  source.add_argument(
    '--split-layer',
    type=common.positive,
    help='encoder layers that see a passage alone (9 of 12, 20 of 24, else '
    'three quarters)',
  )
  source.add_argument(
    '--step', type=int, help="which checkpoint of T5X's folder (the newest)"
  )
  source.add_argument(
    '--codec',
    choices=config_lib.CODECS,
    help='kind of a T5X checkpoint with a token codec',
  )
  source.add_argument(
    '--vocabulary',
    type=pathlib.Path,
    help='SentencePiece model (spiece.model beside the weights)',
  )
  source.add_argument(
    '--extra-ids', type=int, help="sentinels behind its pieces (T5's 100)"
  )
  for field in dataclasses.fields(config_lib.InputLimits):
    source.add_argument(
      f'--{field.name.replace("_", "-")}',
      type=common.positive,
      help=f'limit that inputs are padded to ({field.default})',
    )
  destination = parser.add_argument_group('what a destination may need')
  destination.add_argument(
    '--without-codec',
    action='store_true',
    help='leave the token codec out, which only btr and t5x can hold',
  )
  destination.add_argument(
    '--max-shard-size',
    type=common.positive,
    default=writing.MAX_SHARD_BYTES,
    metavar='BYTES',
    help='of one file of huggingface (5 GB)',
  )
  return parser


def _complete(
  checkpoint: checkpoint_lib.Checkpoint,
  arguments: argparse.Namespace,
  source: pathlib.Path,
) -> checkpoint_lib.Checkpoint:
  """The checkpoint with what the flags say, and how it came to be."""
  limits = checkpoint.limits or config_lib.InputLimits()
  given = {
    field.name: getattr(arguments, field.name)
    for field in dataclasses.fields(limits)
    if getattr(arguments, field.name) is not None
  }
  changes: dict[str, Any] = {'limits': dataclasses.replace(limits, **given)}
  if arguments.vocabulary is not None:
    changes['vocabulary'] = arguments.vocabulary
  if arguments.extra_ids is not None:
    changes['extra_ids'] = arguments.extra_ids
  if arguments.dtype != 'keep':
    changes['tensors'] = checkpoint_lib.cast(
      checkpoint.tensors, arguments.dtype
    )
  if checkpoint.family != 'btr':
    changes['provenance'] = {
      'converted_from': checkpoint.family,
      'source': source.name,
      'architecture_from': checkpoint.config_source,
      'step': checkpoint.step,
      **checkpoint.provenance,
    }
  return dataclasses.replace(checkpoint, **changes)


def _show(
  console: rich.console.Console, checkpoint: checkpoint_lib.Checkpoint
) -> None:
  """What was read: tensors, parameters, bytes and dtypes by part."""
  config = checkpoint.config
  logits = 'tied' if config.logits_via_embedding else 'untied'
  console.print(
    f'  {config.num_encoder_layers} + {config.num_decoder_layers} layers, '
    f'{config.embed_dim} wide, {config.num_heads} heads of {config.head_dim}, '
    f'feed-forward {config.mlp_dim} ({" x ".join(config.mlp_activations)}), '
    f'{config.vocab_size:,} ids, logits {logits}'
  )
  console.print(
    f'  split after encoder layer {config.split_layer}, step '
    f'{checkpoint.step}, architecture from '
    + rich.markup.escape(checkpoint.config_source)
  )
  table = rich.table.Table()
  table.add_column('part')
  for title in ('tensors', 'parameters', 'size'):
    table.add_column(title, justify='right')
  table.add_column('dtype')

  def add(name, tensors, **style):
    part = dataclasses.replace(checkpoint, tensors=tensors)
    table.add_row(
      name,
      f'{len(tensors):,}',
      f'{part.num_parameters:,}',
      storage.amount(part.num_bytes),
      ', '.join(part.dtypes()),
      **style,
    )

  for group, title in _GROUPS.items():
    tensors = {
      name: value
      for name, value in checkpoint.tensors.items()
      if group == (name if name in _GROUPS else name.split('/')[0])
    }
    if tensors:
      add(title, tensors)
  table.add_section()
  add('all', dict(checkpoint.tensors), style='bold')
  console.print(table)
  for reason, number in checkpoint.left_out.items():
    console.print(f'  left out: {number} tensors, {reason}')


def _convert_retriever(arguments: argparse.Namespace) -> int:
  """The retriever of a checkpoint to a folder of its own."""
  source = pathlib.Path(arguments.source)
  destination = pathlib.Path(arguments.destination)
  folders.check_destination(
    destination,
    source,
    arguments.force,
    lambda path: (path / 'config.json').is_file() or (path / 'query').is_dir(),
  )
  beside = source if source.is_dir() else source.parent
  config_path = arguments.config or beside / 'config.json'
  values = (
    huggingface.read_json(config_path)
    if arguments.config or (source.is_dir() and config_path.is_file())
    else {}
  )
  sides = retrievers.read(source)
  config = retrievers.describe(next(iter(sides.values())), values, str(source))
  with replacing(destination) as aside:
    retrievers.write(aside, sides, config, arguments.vocabulary or beside)
  parameters = sum(v.size for side in sides.values() for v in side.values())
  table = rich.table.Table(title=f'{destination}', show_header=False)
  for name, value in (
    ('encoders', ', '.join(side or 'one for both' for side in sides)),
    ('layers', f'{config["num_hidden_layers"]}'),
    ('dimensions', f'{config["hidden_size"]}'),
    ('heads', f'{config["num_attention_heads"]}'),
    ('parameters', f'{parameters:,}'),
  ):
    table.add_row(name, value)
  common.console().print(table)
  common.print_json(
    {
      'command': 'convert',
      'part': 'retriever',
      'source': str(source),
      'destination': str(destination),
      'encoders': [side or 'both' for side in sides],
      'parameters': parameters,
      'config': config,
    }
  )
  return common.EXIT_OK


def _convert_reader(
  arguments: argparse.Namespace, scratch: pathlib.Path
) -> int:
  """The reader of a checkpoint; `scratch` is an empty folder."""
  source = onnx_packages.find(arguments.source)
  destination = pathlib.Path(arguments.destination)
  family = arguments.destination_format
  source_format = arguments.source_format or formats.detect(source)
  if not source.exists():
    raise common.UserError(f'There is no {source}.')
  folders.check_destination(
    destination, source, arguments.force, formats.looks_like_one
  )
  checkpoint = reading.read(
    source,
    source_format,
    reading.ReadOptions(
      config=arguments.config,
      split_layer=arguments.split_layer,
      step=arguments.step,
      codec=arguments.codec,
      scratch=scratch if arguments.vocabulary is None else None,
    ),
  )
  if arguments.without_codec:
    checkpoint = writing.without_codec(checkpoint)
  checkpoint = _complete(checkpoint, arguments, source)
  writing.check_writable(checkpoint, family)
  console = common.console()
  console.print(
    f'[bold]{rich.markup.escape(str(source))}[/bold] ({checkpoint.family})'
  )
  _show(console, checkpoint)
  with replacing(destination) as aside:
    writing.write(checkpoint, aside, family, arguments.max_shard_size)
    writing.verify(checkpoint, aside, family)
  console.print(
    f'[bold]{rich.markup.escape(str(destination))}[/bold] ({family}): '
    'written, read back, every bit equal'
  )
  files = [destination]
  if destination.is_dir():
    files = [file for file in destination.rglob('*') if file.is_file()]
  common.print_json(
    {
      'command': 'convert',
      'source': str(source),
      'source_format': checkpoint.family,
      'destination': str(destination),
      'destination_format': family,
      'tensors': len(checkpoint.tensors),
      'parameters': checkpoint.num_parameters,
      'dtypes': checkpoint.dtypes(),
      'left_out': dict(checkpoint.left_out),
      'config': checkpoint.config.to_dict(),
      'architecture_from': checkpoint.config_source,
      'step': checkpoint.step,
      'bytes': sum(file.stat().st_size for file in files),
    }
  )
  return common.EXIT_OK


def main(argv: Sequence[str]) -> int:
  """Runs the command; see `--help`."""
  arguments = make_parser().parse_args(argv)
  if arguments.part == 'retriever':
    return _convert_retriever(arguments)
  with tempfile.TemporaryDirectory(prefix='btr-convert-') as scratch:
    return _convert_reader(arguments, pathlib.Path(scratch))
