"""Exports a cache as plain .npy files, which `numpy.load` maps by itself.

For readers that know neither zarr nor this package:

  bits = np.load(folder / 'bits.npy', mmap_mode='r')       # [tokens, bytes]
  starts = np.load(folder / 'passage_starts.npy', mmap_mode='r')
  of_passage_7 = bits[starts[7] : starts[8]]
"""

from __future__ import annotations

from collections.abc import Callable
import json
import os
import pathlib
import shutil
from typing import Any

import numpy as np

from btr_jax.cache import files
from btr_jax.cache.store import CacheStore

DESCRIPTION_NAME = 'memmap.json'
_BLOCK_PASSAGES = 1024


def export_memmap(
  source: str | pathlib.Path,
  destination: str | pathlib.Path,
  progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
  """Writes all passages of a cache, one after another, into four arrays.

  Written aside and renamed when whole. A compressed cache is written out with
  all bits of all its tokens, as large as what it was made from. Every passage
  is held against its checksum on the way.

  Args:
    source: folder or URL of a finished cache.
    destination: a folder that does not exist yet.
    progress: called with (passages done, passages).

  Returns:
    What stands in memmap.json: fingerprints, codec, counts, and of each file
    shape, dtype, bytes and SHA-256.

  Raises:
    FileExistsError: the destination is there already.
    FileNotFoundError, CacheCorruptError, CacheIncompleteError: as when a cache
      is read.
    OSError: it cannot be written.
  """
  destination = pathlib.Path(destination)
  if destination.exists():
    raise FileExistsError(
      f'{destination} exists already; remove it, or name another folder.'
    )
  store = CacheStore.open(source)
  aside = destination.with_name(destination.name + files.TEMPORARY_SUFFIX)
  shutil.rmtree(aside, ignore_errors=True)
  aside.mkdir(parents=True)
  try:
    shapes = _write_arrays(store, aside, progress)
    description = {
      'codec_kind': store.layout.codec_kind,
      'passages': store.num_passages,
      'tokens': store.layout.num_tokens,
      'fingerprints': dict(store.manifest.fingerprints),
      'files': {
        f'{name}.npy': {
          'shape': list(shape),
          'dtype': dtype,
          'bytes': (aside / f'{name}.npy').stat().st_size,
          'sha256': files.sha256_of(aside / f'{name}.npy'),
        }
        for name, (shape, dtype) in shapes.items()
      },
    }
    text = json.dumps(description, indent=1, sort_keys=True) + '\n'
    files.write_atomic(aside / DESCRIPTION_NAME, text.encode())
    aside.rename(destination)
  except BaseException:
    shutil.rmtree(aside, ignore_errors=True)
    raise
  files.sync_folder(destination.parent)
  return description


def _write_arrays(
  store: CacheStore,
  folder: pathlib.Path,
  progress: Callable[[int, int], None] | None,
) -> dict[str, tuple[tuple[int, ...], str]]:
  layout = store.layout
  tokens = layout.num_tokens
  shapes: dict[str, tuple[tuple[int, ...], str]] = {
    'bits': ((tokens, layout.bits_bytes), 'uint8'),
    'token_ids': ((tokens,), layout.token_dtype),
    'passage_starts': ((layout.num_passages + 1,), 'int64'),
  }
  if layout.scale_bytes:
    shapes['scale'] = ((tokens, layout.scale_bytes), 'uint8')
  opened = {
    name: _begin(folder / f'{name}.npy', shape, dtype)
    for name, (shape, dtype) in shapes.items()
  }
  try:
    start = np.zeros(1, np.int64)
    start.tofile(opened['passage_starts'])
    for first in range(0, store.num_passages, _BLOCK_PASSAGES):
      stop = min(first + _BLOCK_PASSAGES, store.num_passages)
      passages = np.arange(first, stop)
      lengths = store.lengths(passages)
      longest = int(lengths.max())
      rows = store.lookup(passages, longest)
      real = np.arange(longest) < lengths[:, None]
      starts = start + np.cumsum(lengths, dtype=np.int64)
      starts.tofile(opened['passage_starts'])
      start = starts[-1:]
      for name in shapes.keys() - {'passage_starts'}:
        values = getattr(rows, name)[real].astype(shapes[name][1], copy=False)
        values.tofile(opened[name])
      if progress:
        progress(stop, store.num_passages)
    for file in opened.values():
      file.flush()
      os.fsync(file.fileno())
  finally:
    for file in opened.values():
      file.close()
  return shapes


def _begin(path: pathlib.Path, shape: tuple[int, ...], dtype: str) -> Any:
  """Opens a .npy file behind its header."""
  file = open(path, 'wb')  # closed by the caller
  header = {
    'descr': np.lib.format.dtype_to_descr(np.dtype(dtype)),
    'fortran_order': False,
    'shape': shape,
  }
  np.lib.format.write_array_header_1_0(file, header)
  return file
