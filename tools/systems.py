"""Which reader answers in which way: the rows of an evaluation."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import dataclasses
import importlib.resources
import json
import os
import pathlib

from btr_jax import config as config_lib
from btr_jax.models import reader_files
from btr_jax.tools import common

SHIPPED = 'assets/factbook_tiny'


@dataclasses.dataclass(frozen=True)
class System:
  """One way of answering.

  Attributes:
    name: as tables show it, and unique in one run.
    mode: of the engine.
    codec: of the cache; None without one.
    cross_attention: of the decoder; None takes the form of the least work.
    merging: which tokens are merged while reading.
    int8_products: whether the encoder multiplies in eight bits.
  """

  name: str
  mode: str
  codec: str | None
  cross_attention: str | None = None
  merging: config_lib.MergingConfig = config_lib.NO_MERGING
  int8_products: bool = False

  @property
  def cached(self) -> bool:
    return self.codec is not None


def binary(codec: str) -> System:
  """Mode binary from a cache; with codec `float` that is DeFormer's cache."""
  name = 'decomposed-cached' if codec == 'float' else f'binary-{codec}'
  return System(name, 'binary', codec)


def merged(
  found: Sequence[System], mergings: Sequence[config_lib.MergingConfig]
) -> list[System]:
  """The systems, and those with a cache of bits again for each merging."""
  more = [
    dataclasses.replace(
      system, name=system.name + merging.suffix, merging=merging
    )
    for system in found
    for merging in mergings
    if system.codec not in (None, 'float')
  ]
  return [*found, *more]


def in_eight_bits(found: Sequence[System]) -> list[System]:
  """The systems again, with an encoder that multiplies in eight bits."""
  return [
    dataclasses.replace(
      system, name=f'{system.name}-int8-products', int8_products=True
    )
    for system in found
  ]


# What others have built is `joint` with keys and values computed once; the
# second row is the best that can be done without BTR.
UNCACHED = (
  System('joint', 'joint', None, 'cached'),
  System('joint-absorbed', 'joint', None, 'absorbed'),
  System('decomposed', 'decomposed', None),
)


def reader_path(given: str | None) -> pathlib.Path:
  """The reader or family that the user named, or the one that ships.

  Raises:
    UserError: there is none.
  """
  if given is not None:
    path = pathlib.Path(given)
    if not path.is_dir():
      raise common.UserError(
        f'--reader {given}: no such folder. Give a reader that training wrote '
        '(MODEL_DIR/stage3_residual/reader) or a family of them.'
      )
    return path
  path = pathlib.Path(str(importlib.resources.files('btr_jax'))) / SHIPPED
  if not (path / reader_files.FAMILY_FILE).is_file():
    raise common.UserError(
      f'the reader that ships with btr_jax is missing: expected '
      f'{reader_files.FAMILY_FILE} in {path}. Get it from the repository, or '
      'train one (python -m btr_jax.train '
      '--gin_file=gin_configs/btr_tiny.gin --gin.STAGE="\'all\'") and name '
      'it by --reader.'
    )
  return path


def default_codec(path: str | os.PathLike) -> str | None:
  """The codec that a family or reader is read with if nobody says otherwise.

  Returns:
    None for a single reader that was trained without a codec.
  """
  path = pathlib.Path(path)
  family = path / reader_files.FAMILY_FILE
  if family.is_file():
    return json.loads(family.read_text()).get('default_codec', 'residual')
  reader = reader_files.load_reader(path)
  has_codec = 'codec' in reader.params
  return reader.config.codec.kind if has_codec else None


def systems_of(
  path: str | os.PathLike, mode: str, codec: str | None
) -> list[System]:
  """The systems that `--mode` and `--codec` ask for.

  Args:
    path: reader or family directory.
    mode: `joint`, `decomposed`, `binary`, or `all` for every row that the
      readers at hand allow.
    codec: of mode binary; None takes the default one, with `all` every one.

  Returns:
    At least one system; the joint one first where it is among them.

  Raises:
    ValueError: unknown mode or codec.
    UserError: mode binary of a reader without codec.
  """
  config_lib.check_choice('--mode', mode, (*config_lib.MODES, 'all'))
  if codec is not None:
    kind, _ = reader_files.split_codec(codec)
    config_lib.check_choice('--codec', kind, config_lib.CODECS)
    if mode not in ('binary', 'all'):
      raise common.UserError(
        f'--codec {codec} has no meaning in mode {mode}, which reads no '
        'cache; leave it out, or use --mode binary.'
      )
  default = default_codec(path)
  if mode == 'binary':
    if codec is None and default is None:
      raise common.UserError(
        f'{path} was trained without a codec, so it cannot answer in mode '
        'binary; train stage 3, or use --codec float for a cache of its '
        'bfloat16 states.'
      )
    return [binary(codec or default)]
  if mode != 'all':
    return [System(mode, mode, None)]
  family = pathlib.Path(path) / reader_files.FAMILY_FILE
  codecs = [default] if default else []
  if family.is_file():
    held = json.loads(family.read_text())
    codecs = [name for name in config_lib.CODECS if name in held]
  codecs = [codec] if codec else ['float', *codecs]
  return [*UNCACHED, *map(binary, codecs)]


def add_bits_argument(parser: argparse.ArgumentParser) -> None:
  """Adds --bits, the dial of the residual codec."""
  parser.add_argument(
    '--bits',
    type=common.positive,
    help='of the residual codec: its first so many bits per token, those that '
    'tell most (all)',
  )


def codec_of(arguments: argparse.Namespace) -> str | None:
  """What --codec and --bits ask for, as `reader_files.load_reader` takes it."""
  if arguments.bits is None:
    return arguments.codec
  return f'{arguments.codec or "residual"}:{arguments.bits}'


def load(path: str | os.PathLike, system: System) -> reader_files.LoadedReader:
  """The reader that a system answers with. Errors as `load_reader`."""
  return reader_files.load_reader(path, mode=system.mode, codec=system.codec)
