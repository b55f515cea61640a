"""The cache's arrays as TensorStore sees them (zarr v3, sharding_indexed)."""

from __future__ import annotations

import pathlib
from typing import Any

import tensorstore as ts

from btr_jax.cache.layout import ArrayLayout, CacheLayout

GROUP_NAME = 'zarr.json'
# A zarr group, so that `zarr.open_group(path)` shows all arrays.
GROUP_CONTENT = b'{"node_type": "group", "zarr_format": 3}\n'


def is_remote(folder: pathlib.Path | str) -> bool:
  """Whether it is a URL of TensorStore's, such as gs://bucket/cache."""
  return isinstance(folder, str) and '://' in folder


def kvstore_spec(folder: pathlib.Path | str, name: str = '') -> Any:
  """The key-value store of a folder, or of one inside it."""
  if is_remote(folder):
    return '/'.join([folder.rstrip('/'), *([name] if name else [])]) + '/'
  path = pathlib.Path(folder).absolute() / name
  return {'driver': 'file', 'path': f'{path}/'}


def read_bytes(folder: pathlib.Path | str, name: str) -> bytes:
  """A small file of a local or remote folder.

  Raises:
    FileNotFoundError: there is none.
    OSError: the store cannot be read (no such bucket, no permission, ...).
  """
  try:
    found = ts.KvStore.open(kvstore_spec(folder)).result().read(name).result()
  except ValueError as error:
    raise OSError(f'{folder} cannot be read: {error}') from error
  if found.state != 'value':
    raise FileNotFoundError(f'{folder} has no {name}.')
  return found.value


def array_spec(
  folder: pathlib.Path | str, layout: CacheLayout, array: ArrayLayout
) -> dict[str, Any]:
  """TensorStore's spec of one array of a local folder or a URL.

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
    'kvstore': kvstore_spec(folder, array.name),
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
  folder: pathlib.Path | str,
  layout: CacheLayout,
  array: ArrayLayout,
  *,
  create: bool = False,
  context: ts.Context | None = None,
) -> ts.TensorStore:
  """Opens (or creates, where absent) one array.

  Args:
    folder: of the cache, or its URL.
    layout: of the cache.
    array: which one.
    create: to write; else to read, and what was read once may be kept in the
      context's cache pool, for a finished cache does not change.
    context: TensorStore's; holds the cache pool.

  Raises:
    ValueError: TensorStore found none, or one with other metadata.
  """
  spec = array_spec(folder, layout, array)
  if not create:
    spec |= {'recheck_cached_metadata': 'open', 'recheck_cached_data': 'open'}
  return ts.open(
    spec, open=True, create=create, write=create, context=context
  ).result()
