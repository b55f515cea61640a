"""The cache's arrays as TensorStore sees them (zarr v3, sharding_indexed)."""

from __future__ import annotations

import pathlib
from typing import Any

import tensorstore as ts

from btr_jax.cache.layout import ArrayLayout, CacheLayout

GROUP_NAME = 'zarr.json'
# A zarr group, so that `zarr.open_group(path)` shows all arrays.
GROUP_CONTENT = b'{"node_type": "group", "zarr_format": 3}\n'


def array_spec(
  folder: pathlib.Path, layout: CacheLayout, array: ArrayLayout
) -> dict[str, Any]:
  """TensorStore's spec of one array.

  The inner chunks carry no checksum: it would stand between the rows and the
  shard would no longer be flat. The ledger's SHA-256 takes its place. Names
  `c.3.0` instead of `c/3/0` save a folder per shard. The two last options
  close TensorStore's silent traps: without them a missing shard reads as
  zeros, and a chunk of zeros is not stored.
  """
  little = {'name': 'bytes', 'configuration': {'endian': 'little'}}
  shape = lambda rows: [rows, *array.row_shape]  # noqa: E731
  return {
    'driver': 'zarr3',
    'kvstore': {'driver': 'file', 'path': f'{folder.absolute()}/{array.name}/'},
    'metadata': {
      'shape': shape(layout.num_shards * array.rows_per_shard),
      'data_type': array.dtype,
      'fill_value': 0,
      'dimension_names': [array.per, *(['bytes'] if array.width else [])],
      'chunk_grid': {
        'name': 'regular',
        'configuration': {'chunk_shape': shape(array.rows_per_shard)},
      },
      'chunk_key_encoding': {
        'name': 'default',
        'configuration': {'separator': '.'},
      },
      'codecs': [
        {
          'name': 'sharding_indexed',
          'configuration': {
            'chunk_shape': shape(array.chunk_rows),
            'codecs': [little],
            'index_codecs': [little, {'name': 'crc32c'}],
            'index_location': 'end',
          },
        }
      ],
    },
    'fill_missing_data_reads': False,
    'store_data_equal_to_fill_value': True,
  }


def open_array(
  folder: pathlib.Path,
  layout: CacheLayout,
  array: ArrayLayout,
  *,
  create: bool = False,
) -> ts.TensorStore:
  """Opens (or creates, where absent) one array.

  Raises:
    ValueError: TensorStore found none, or one with other metadata.
  """
  spec = array_spec(folder, layout, array)
  return ts.open(spec, open=True, create=create, write=create).result()
