"""Milliseconds of a look-up, warm and cold, beside other ways of reading."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import ctypes
import dataclasses
import gc
import mmap
import os
import pathlib
import time
from typing import Any

import numpy as np

from btr_jax.cache import arrays
from btr_jax.cache.store import CacheStore

# Bits of some passages, read in one of several ways.
Reader = Callable[[Sequence[int]], Any]


@dataclasses.dataclass(frozen=True)
class Setting:
  """What is read.

  Attributes:
    passages: at a time.
    length: tokens of each.
    warm_repeats, cold_repeats: look-ups timed, each of other passages.
    seed: of the passages.
  """

  passages: int = 40
  length: int = 128
  warm_repeats: int = 300
  cold_repeats: int = 30
  seed: int = 0


def resident_bytes() -> int:
  """Resident memory of this process, mapped files included."""
  pages = int(pathlib.Path('/proc/self/statm').read_text().split()[1])
  return pages * mmap.PAGESIZE


def drop_cached_pages(path: pathlib.Path) -> None:
  """Makes the kernel forget the files of a cache that no process has mapped.

  posix_fadvise(DONTNEED), file by file: needs no rights and leaves the rest of
  the machine alone. The files must have been synced.
  """
  gc.collect()  # maps that nobody holds any more
  for file in path.rglob('*'):
    if file.is_file():
      descriptor = os.open(file, os.O_RDONLY)
      try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
      finally:
        os.close(descriptor)


def cached_share(path: pathlib.Path) -> float:
  """Share of the bits' pages that are in the page cache, as mincore tells.

  Every fourth shard or so is asked. Reading without waiting (RWF_NOWAIT) does
  not tell: since Linux 6 it begins to read ahead what it then finds.
  """
  libc = ctypes.CDLL(None, use_errno=True)
  found = asked = 0
  for file in sorted((path / 'bits').glob('c.*'))[::4]:
    mapped = np.memmap(file, np.uint8, 'r')
    pages = np.zeros(-(-mapped.size // mmap.PAGESIZE), np.uint8)
    if libc.mincore(
      ctypes.c_void_p(mapped.ctypes.data),
      ctypes.c_size_t(mapped.size),
      ctypes.c_void_p(pages.ctypes.data),
    ):
      code = ctypes.get_errno()
      raise OSError(code, f'mincore of {file}: {os.strerror(code)}')
    found += int(np.count_nonzero(pages & 1))
    asked += pages.size
  return found / asked if asked else 0.0


class BitsReaders:
  """Other ways to read the bits of passages of one length, shard by shard.

  They know where a passage lies without looking, check nothing and read no
  token ids and scales: less work than a look-up does.
  """

  def __init__(self, path: pathlib.Path, length: int):
    store = CacheStore.open(path)
    self._path = path
    self._layout = store.layout
    self._array = store.layout.array('bits')
    self._length = length
    self._rows = [shard.rows for shard in store.manifest.shards]
    self._bytes = length * self._array.row_bytes

  def _out(self, count: int) -> np.ndarray:
    return np.empty((count, self._bytes), np.uint8)

  def _places(self, passages: Sequence[int]) -> list[tuple[int, int]]:
    per_shard = self._layout.passages_per_shard
    return [(p // per_shard, p % per_shard * self._length) for p in passages]

  def _files(self) -> list[pathlib.Path]:
    shards = range(self._layout.num_shards)
    return [self._path / self._array.file_name(shard) for shard in shards]

  def memmap(self) -> Reader:
    """numpy.memmap, one slice per passage."""
    width = self._array.row_bytes
    maps = [np.memmap(file, np.uint8, 'r') for file in self._files()]

    def read(passages: Sequence[int]) -> np.ndarray:
      out = self._out(len(passages))
      for slot, (shard, row) in enumerate(self._places(passages)):
        out[slot] = maps[shard][row * width : row * width + self._bytes]
      return out

    return read

  def take(self) -> Reader:
    """numpy's fancy indexing of rows of numpy.memmap, shard by shard."""
    width = self._array.row_bytes
    maps = [
      np.memmap(file, np.uint8, 'r', shape=(rows, width))
      for file, rows in zip(self._files(), self._rows, strict=True)
    ]

    def read(passages: Sequence[int]) -> np.ndarray:
      out = self._out(len(passages)).reshape(len(passages), -1, width)
      for slot, (shard, row) in enumerate(self._places(passages)):
        rows = np.arange(row, row + self._length)
        np.take(maps[shard], rows, axis=0, out=out[slot], mode='clip')
      return out

    return read

  def pread(self) -> Reader:
    """os.preadv into the result, one call per passage."""
    width = self._array.row_bytes
    descriptors = [os.open(file, os.O_RDONLY) for file in self._files()]
    for descriptor in descriptors:
      os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)

    def read(passages: Sequence[int]) -> np.ndarray:
      out = self._out(len(passages))
      for slot, (shard, row) in enumerate(self._places(passages)):
        os.preadv(descriptors[shard], [out[slot]], row * width)
      return out

    read.close = lambda: [os.close(d) for d in descriptors]
    return read

  def tensorstore(self) -> Reader:
    """TensorStore, all passages asked for before the first is waited for."""
    opened = arrays.open_array(self._path, self._layout, self._array)
    stride = self._array.rows_per_shard

    def read(passages: Sequence[int]) -> list[np.ndarray]:
      futures = []
      for shard, row in self._places(passages):
        first = shard * stride + row
        futures.append(opened[first : first + self._length].read())
      return [future.result() for future in futures]

    return read


def _spread(seconds: Sequence[float]) -> dict[str, float]:
  values = np.array(seconds) * 1e3
  return {
    'median_ms': float(np.median(values)),
    'smallest_ms': float(values.min()),
    'p90_ms': float(np.percentile(values, 90)),
    'repeats': len(values),
  }


def measure(
  path: pathlib.Path,
  setting: Setting,
  progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
  """Times look-ups of random passages.

  Warm: all passages were read in the same way just before. Cold: before every
  look-up all pages of all files of the cache are dropped (they are mapped, but
  not touched).

  Args:
    path: an uncompressed cache whose passages all have `setting.length` tokens.
    setting: what is read and how often.
    progress: called with (ways measured, ways).

  Returns:
    One row per way of reading: name, reads, checks, warm and cold.
  """
  num_passages = CacheStore.open(path).num_passages
  other = BitsReaders(path, setting.length)

  def lookup(verify: bool) -> Callable[[], Reader]:
    def opened() -> Reader:
      store = CacheStore.open(path, verify=verify)
      store.open_shards()
      return lambda passages: store.lookup(passages, setting.length)

    return opened

  everything = 'bits, scales, token ids'
  ways: list[tuple[str, str, bool, Callable[[], Reader]]] = [
    ('look-up', everything, True, lookup(True)),
    ('look-up without checksums', everything, False, lookup(False)),
    ('numpy.memmap', 'bits', False, other.memmap),
    ('numpy.take on numpy.memmap', 'bits', False, other.take),
    ('os.preadv', 'bits', False, other.pread),
    ('TensorStore', 'bits', False, other.tensorstore),
  ]
  rows = []
  for number, (name, reads, checks, make) in enumerate(ways):
    rows.append(
      {
        'name': name,
        'reads': reads,
        'checks': checks,
        'warm': _time_warm(make, num_passages, setting),
        'cold': _time_cold(path, make, num_passages, setting),
      }
    )
    if progress:
      progress(number + 1, len(ways))
  return rows


def _time_warm(
  make: Callable[[], Reader],
  num_passages: int,
  setting: Setting,
) -> dict[str, float]:
  read = make()
  # Every passage once, in the same way: files, page tables, frequencies.
  for first in range(0, num_passages, setting.passages):
    read(range(first, min(first + setting.passages, num_passages)))
  random = np.random.default_rng(setting.seed)
  seconds = []
  for _ in range(setting.warm_repeats):
    passages = random.integers(0, num_passages, setting.passages).tolist()
    start = time.perf_counter()
    read(passages)
    seconds.append(time.perf_counter() - start)
  _close(read)
  return _spread(seconds)


def _time_cold(
  path: pathlib.Path,
  make: Callable[[], Reader],
  num_passages: int,
  setting: Setting,
) -> dict[str, float]:
  random = np.random.default_rng(setting.seed + 1)
  seconds, shares = [], []
  for _ in range(setting.cold_repeats):
    passages = random.integers(0, num_passages, setting.passages).tolist()
    drop_cached_pages(path)
    read = make()
    # What opening has read is dropped, but for pages that it has mapped.
    drop_cached_pages(path)
    shares.append(cached_share(path))
    start = time.perf_counter()
    read(passages)
    seconds.append(time.perf_counter() - start)
    _close(read)
    del read
  return _spread(seconds) | {'cached_before': float(np.mean(shares))}


def _close(read: Reader) -> None:
  if hasattr(read, 'close'):
    read.close()
