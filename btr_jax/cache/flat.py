"""The flat, memory-mapped view of a shard file."""

from __future__ import annotations

import mmap
import pathlib

import numpy as np

from btr_jax.cache.layout import ArrayLayout


def map_shard(
  path: pathlib.Path, array: ArrayLayout, rows: int, *, check: bool = True
) -> memoryview | None:
  """Maps the rows of a shard file, read-only.

  Args:
    path: the shard file.
    array: layout of its array.
    rows: rows that the shard holds, at least 1.
    check: hold the index at the file's end against that of a flat file.

  Returns:
    The rows' bytes, read-only; or None when the file is a valid shard but not
    flat (another tool may have written its chunks in another order), so that
    TensorStore must read it.

  Raises:
    OSError: the file cannot be opened.
  """
  with open(path, 'rb') as file:
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
  if len(mapped) != array.file_bytes(rows):
    return None
  # Passages are read in random order: without this the kernel may read
  # megabytes ahead for every page that it has to fetch.
  if hasattr(mmap, 'MADV_RANDOM'):
    mapped.madvise(mmap.MADV_RANDOM)
  if check:
    first = len(mapped) - array.index_bytes
    will_need(memoryview(mapped), first, len(mapped))
    expected = array.expected_index(rows)
    index = np.frombuffer(mapped, '<u8', expected.size, first)
    if not np.array_equal(index.reshape(expected.shape), expected):
      return None
    if hasattr(mmap, 'MADV_DONTNEED'):
      # It is not read again; of many shards it would be most of the memory.
      page = first // mmap.PAGESIZE * mmap.PAGESIZE
      mapped.madvise(mmap.MADV_DONTNEED, page, len(mapped) - page)
  return memoryview(mapped)[: rows * array.row_bytes]


def will_need(view: memoryview, start: int, stop: int) -> None:
  """Asks the kernel to fetch the bytes [start, stop) of a mapped shard.

  Returns at once; the disk works on many such requests at a time, while a page
  that is merely touched is waited for alone. Does nothing for other memory.
  """
  mapped = isinstance(view.obj, mmap.mmap)
  if mapped and stop > start and hasattr(mmap, 'MADV_WILLNEED'):
    first = start // mmap.PAGESIZE * mmap.PAGESIZE
    view.obj.madvise(mmap.MADV_WILLNEED, first, stop - first)
