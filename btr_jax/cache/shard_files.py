"""The bytes of a shard's files: rows, zeros to whole chunks, index.

TensorStore would write the same bytes (a test compares), but not aside, synced
and renamed under our eyes, nor to every place alike; and it would have to be
read back for the checksum. Its codecs make the index and zarr.json all the
same, so that the format stands in one place (arrays.py).
"""

from __future__ import annotations

from collections.abc import Mapping
import functools
import pathlib

import numpy as np
import tensorstore as ts

from btr_jax.cache import arrays
from btr_jax.cache.files import Buffer
from btr_jax.cache.layout import ArrayLayout, CacheLayout

METADATA_NAME = 'zarr.json'


def file_pieces(array: ArrayLayout, rows: np.ndarray) -> list[Buffer]:
  """The file of a shard, as pieces to be written one after the other.

  Args:
    array: its layout.
    rows: the shard's rows, of the array's dtype, at least one.

  Returns:
    The pieces; the first one is `rows` itself, not a copy.
  """
  pieces: list[Buffer] = [memoryview(np.ascontiguousarray(rows)).cast('B')]
  padding = array.padded_rows(len(rows)) - len(rows)
  if padding:
    pieces.append(bytes(padding * array.row_bytes))
  pieces.append(_index(array, array.padded_rows(len(rows))))
  return pieces


@functools.lru_cache(maxsize=64)
def _index(array: ArrayLayout, padded_rows: int) -> bytes:
  """The index that ends the file: offsets, lengths, CRC-32C."""
  index = array.expected_index(padded_rows)
  spec = {
    'driver': 'zarr3',
    'kvstore': {'driver': 'memory'},
    'metadata': {
      'shape': list(index.shape),
      'data_type': 'uint64',
      'chunk_grid': {
        'name': 'regular',
        'configuration': {'chunk_shape': list(index.shape)},
      },
      'codecs': [
        {'name': 'bytes', 'configuration': {'endian': 'little'}},
        {'name': 'crc32c'},
      ],
    },
    'store_data_equal_to_fill_value': True,
  }
  context = ts.Context()
  store = ts.open(spec, create=True, context=context).result()
  store.write(index).result()
  return _read(context, 'c/0/0')


def metadata_files(layout: CacheLayout) -> Mapping[str, bytes]:
  """The zarr.json files of a cache: relative path -> content."""
  content = {arrays.GROUP_NAME: arrays.GROUP_CONTENT}
  for array in layout.arrays:
    # The folder is replaced: only the metadata is wanted, in memory.
    spec = arrays.array_spec(pathlib.Path('/'), layout, array)
    spec['kvstore'] = {'driver': 'memory'}
    context = ts.Context()
    ts.open(spec, create=True, context=context).result()
    content[f'{array.name}/{METADATA_NAME}'] = _read(context, METADATA_NAME)
  return content


def _read(context: ts.Context, key: str) -> bytes:
  memory = ts.KvStore.open({'driver': 'memory'}, context=context).result()
  return memory.read(key).result().value
