"""Text files, plain or compressed, line by line, whatever their encoding.

UTF-8 unless the caller says otherwise; a byte order mark is believed. What is
not text in that encoding is named and left out, never guessed.
"""

from __future__ import annotations

import bz2
import codecs
from collections.abc import Callable, Iterator
import contextlib
import gzip
import io
import lzma
import os
import pathlib
from typing import IO
import zlib

from btr_jax.data.problems import Problems

_OPENERS = {'.gz': gzip.open, '.xz': lzma.open, '.bz2': bz2.open}
COMPRESSED = tuple(_OPENERS)
_MARKS = (
  (codecs.BOM_UTF8, 'utf-8-sig'),
  (codecs.BOM_UTF32_LE, 'utf-32'),
  (codecs.BOM_UTF32_BE, 'utf-32'),
  (codecs.BOM_UTF16_LE, 'utf-16'),
  (codecs.BOM_UTF16_BE, 'utf-16'),
)
_BLOCK = 1 << 20
_LINES_PER_PROGRESS = 2000
# OSError: bz2's, for what is no bz2; also gzip.BadGzipFile.
_DAMAGED = (EOFError, OSError, lzma.LZMAError, zlib.error)
ENCODING_ADVICE = (
  'convert the file to UTF-8, or name its encoding by --encoding, such as '
  'latin-1'
)


class DamagedFileError(ValueError):
  """A compressed file that is cut or broken."""


def suffix_of(path: str | os.PathLike) -> str:
  """The suffix in lower case, that of the content for 'a.tsv.gz'."""
  path = pathlib.Path(path)
  suffix = path.suffix.lower()
  if suffix in COMPRESSED:
    return pathlib.Path(path.stem).suffix.lower()
  return suffix


@contextlib.contextmanager
def open_binary(
  path: str | os.PathLike,
) -> Iterator[tuple[IO[bytes], Callable[[], int]]]:
  """Opens a plain, gzip, xz or bz2 file, by its name, for reading.

  Yields:
    (the content, a function that tells how many bytes of the file itself have
    been read).

  Raises:
    DamagedFileError: it cannot be unpacked; also from within the body.
  """
  opener = _OPENERS.get(pathlib.Path(path).suffix.lower())
  with open(path, 'rb') as file:
    if opener is None:
      yield file, file.tell
      return
    try:
      with opener(file, 'rb') as content:
        yield content, file.tell
    except _DAMAGED as error:
      raise DamagedFileError(
        f'{path} is damaged or cut short ({error}); copy or download it again.'
      ) from error


def check_encoding(encoding: str) -> str:
  """The encoding's usual name.

  Raises:
    ValueError: Python knows none of that name.
  """
  try:
    return codecs.lookup(encoding).name
  except LookupError:
    raise ValueError(
      f'The encoding is {encoding!r}; expected a name such as utf-8, latin-1, '
      'cp1252 or utf-16.'
    ) from None


def encoding_of(path: str | os.PathLike, encoding: str) -> str:
  """The encoding that the file's byte order mark tells, else the given one."""
  with open_binary(path) as (file, _):
    start = file.read(4)
  for mark, name in _MARKS:
    if start.startswith(mark):
      return name
  return encoding


def problem_of(path: str | os.PathLike, encoding: str) -> str | None:
  """Why a file cannot be read as text, from one pass over all of it.

  Args:
    path: the file.
    encoding: believed where the file has no byte order mark.

  Returns:
    None if it can be read.
  """
  position = 0
  try:
    encoding = encoding_of(path, encoding)
    decoder = codecs.getincrementaldecoder(encoding)()
    with open_binary(path) as (file, _):
      while block := file.read(_BLOCK):
        text = decoder.decode(block)
        if '\0' in text:
          return (
            f'holds NUL characters, so it is not {encoding} text; '
            + ENCODING_ADVICE
          )
        position += len(block)
      decoder.decode(b'', final=True)
  except UnicodeDecodeError as error:
    return (
      f'not {encoding} (byte 0x{error.object[error.start]:02x} near byte '
      f'{position + error.start}); {ENCODING_ADVICE}'
    )
  except DamagedFileError as error:
    return str(error)
  return None


def iterate_lines(
  path: str | os.PathLike,
  encoding: str,
  problems: Problems,
  progress: Callable[[int], None] = lambda position: None,
) -> Iterator[tuple[int, str]]:
  """Yields (line number from 1, line without its end).

  A line that is not of the encoding is a problem and left out, and so is what
  follows in a file of UTF-16 or UTF-32, where lines cannot be told apart.

  Args:
    path: the file, maybe compressed.
    encoding: believed where the file has no byte order mark.
    problems: takes what is wrong.
    progress: told at times how many bytes of the file have been read.

  Raises:
    DamagedFileError: the compressed file cannot be unpacked.
    ValueError: `problems` is strict.
  """
  encoding = encoding_of(path, encoding)
  number = 0
  with open_binary(path) as (file, tell):
    if encoding.startswith(('utf-16', 'utf-32')):
      lines: Iterator[bytes | str] = iter(
        io.TextIOWrapper(file, encoding, newline='\n')
      )
    else:
      lines = iter(file)
    while True:
      number += 1
      if number % _LINES_PER_PROGRESS == 0:
        progress(tell())
      try:
        line = next(lines, None)
        if line is None:
          return
        if isinstance(line, bytes):
          line = line.decode(encoding)
      except UnicodeDecodeError as error:
        problems.leave_out(
          'encoding',
          f'line {number}',
          f'not {encoding} ({error.reason} at byte {error.start}); '
          + ENCODING_ADVICE,
        )
        if encoding.startswith(('utf-16', 'utf-32')):
          return
        continue
      yield number, line.rstrip('\r\n')
