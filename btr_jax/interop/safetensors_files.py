"""Safetensors files of any size: read by mapping, written as a stream.

The safetensors package checks a file; the bytes are mapped here, because its
NumPy side knows no bfloat16 and its writers hold all tensors twice.
"""

from __future__ import annotations

from collections.abc import Mapping
import json
import os
import pathlib
import struct

import ml_dtypes
import numpy as np
import safetensors

from btr_jax.interop.checkpoint import ConversionError

INDEX_SUFFIX = '.index.json'
# transformers refuses a file that does not say so.
_FOR_TORCH = {'format': 'pt'}
_DTYPES = {
  'F32': np.dtype(np.float32),
  'BF16': np.dtype(ml_dtypes.bfloat16),
  'F16': np.dtype(np.float16),
  'F64': np.dtype(np.float64),
  'I64': np.dtype(np.int64),
  'I32': np.dtype(np.int32),
  'I16': np.dtype(np.int16),
  'I8': np.dtype(np.int8),
  'U8': np.dtype(np.uint8),
  'BOOL': np.dtype(np.bool_),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def read_file(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Tensors of one file, mapped into memory.

  Args:
    path: a .safetensors file.

  Returns:
    Read-only arrays by name.

  Raises:
    ConversionError: no such file, not whole, or of a dtype unknown here.
  """
  path = pathlib.Path(path)
  try:
    # Checks the header, its offsets, and that the file is as long as they say.
    with safetensors.safe_open(path, 'np'):
      pass
    with open(path, 'rb') as file:
      (length,) = struct.unpack('<Q', file.read(8))
      header = json.loads(file.read(length))
    mapped = np.memmap(path, np.uint8, 'r')
  except (OSError, ValueError, safetensors.SafetensorError) as error:
    raise ConversionError(
      f'Cannot read {path}: {error}. Copy or download it again.'
    ) from error
  header.pop('__metadata__', None)
  result = {}
  for name, entry in header.items():
    if entry['dtype'] not in _DTYPES:
      raise ConversionError(
        f'{path}: {name} has dtype {entry["dtype"]}; weights are read as F32, '
        'BF16 or F16. Dequantise them first.'
      )
    start, stop = (8 + length + offset for offset in entry['data_offsets'])
    flat = mapped[start:stop].view(_DTYPES[entry['dtype']])
    result[name] = flat.reshape(entry['shape'])
  return result


def read_sharded(index: str | os.PathLike) -> dict[str, np.ndarray]:
  """Tensors of a checkpoint in several files.

  Args:
    index: its `*.safetensors.index.json`.

  Returns:
    Read-only arrays by name.

  Raises:
    ConversionError: see `shard_names`, or a file holds other tensors than the
      index says.
  """
  index = pathlib.Path(index)
  weight_map = shard_names(index)
  result: dict[str, np.ndarray] = {}
  for shard in sorted(set(weight_map.values())):
    result.update(read_file(index.parent / shard))
  check_index(index, weight_map, result)
  return result


def shard_names(index: pathlib.Path) -> dict[str, str]:
  """The `weight_map` of an index: tensor name -> file beside the index.

  Raises:
    ConversionError: no index, a name that leaves the folder, or files that
      are not there.
  """
  try:
    weight_map = json.loads(index.read_text())['weight_map']
    pairs = {str(name): str(shard) for name, shard in weight_map.items()}
  except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
    raise ConversionError(
      f'Cannot read {index}: {type(error).__name__}: {error}. Expected JSON '
      'with the key "weight_map".'
    ) from error
  shards = sorted(set(pairs.values()))
  for shard in shards:
    # An index is downloaded; it must not reach outside its folder.
    if pathlib.Path(shard).name != shard or shard in ('.', '..', ''):
      raise ConversionError(
        f'{index} names the file {shard!r}; expected a file in its own folder.'
      )
  missing = [name for name in shards if not (index.parent / name).is_file()]
  if missing:
    raise ConversionError(
      f'{index} names {len(shards)} files, but {missing} are not in '
      f'{index.parent}. Copy or download them.'
    )
  return pairs


def check_index(
  index: pathlib.Path,
  weight_map: Mapping[str, str],
  found: Mapping[str, np.ndarray],
) -> None:
  """Raises ConversionError unless the files hold what the index says."""
  absent = sorted(set(weight_map) - set(found))
  surplus = sorted(set(found) - set(weight_map))
  if absent or surplus:
    raise ConversionError(
      f'{index}: the files lack {absent[:20]} and hold {surplus[:20]}, which '
      'the index does not name. Files of two checkpoints lie together; copy '
      'one of them anew.'
    )


def write_file(
  path: str | os.PathLike,
  tensors: Mapping[str, np.ndarray],
  metadata: Mapping[str, str] | None = None,
) -> None:
  """Writes one file, a tensor at a time, and syncs it.

  Args:
    path: file to make, in a folder that appears only when it is whole.
    tensors: by name, in any dtype and memory order.
    metadata: text for the file's header.
  """
  # Wide dtypes first, so that every tensor lies aligned.
  order = sorted(tensors, key=lambda n: (-tensors[n].dtype.itemsize, n))
  header: dict[str, object] = {}
  if metadata:
    header['__metadata__'] = dict(metadata)
  offset = 0
  for name in order:
    value = tensors[name]
    header[name] = {
      'dtype': _NAMES[value.dtype],
      'shape': list(value.shape),
      'data_offsets': [offset, offset + value.nbytes],
    }
    offset += value.nbytes
  text = json.dumps(header, separators=(',', ':')).encode()
  text += b' ' * (-len(text) % 8)
  with open(path, 'wb') as file:
    file.write(struct.pack('<Q', len(text)) + text)
    for name in order:
      file.write(np.ascontiguousarray(tensors[name]).view(np.uint8).data)
    file.flush()
    os.fsync(file.fileno())


def write_folder(
  folder: pathlib.Path, tensors: Mapping[str, np.ndarray], max_bytes: int
) -> list[str]:
  """Writes model.safetensors, or several files and their index.

  Args:
    folder: where to.
    tensors: by name.
    max_bytes: of tensors in one file; a larger tensor has a file of its own.

  Returns:
    Names of the files.
  """
  groups: list[dict[str, np.ndarray]] = [{}]
  room = max_bytes
  for name in sorted(tensors):
    if groups[-1] and tensors[name].nbytes > room:
      groups.append({})
      room = max_bytes
    groups[-1][name] = tensors[name]
    room -= tensors[name].nbytes
  if len(groups) == 1:
    write_file(folder / 'model.safetensors', groups[0], _FOR_TORCH)
    return ['model.safetensors']
  weight_map = {}
  files = []
  for number, group in enumerate(groups, start=1):
    file = f'model-{number:05d}-of-{len(groups):05d}.safetensors'
    write_file(folder / file, group, _FOR_TORCH)
    files.append(file)
    weight_map.update(dict.fromkeys(group, file))
  total = sum(value.nbytes for value in tensors.values())
  index = {'metadata': {'total_size': total}, 'weight_map': weight_map}
  name = f'model.safetensors{INDEX_SUFFIX}'
  (folder / name).write_text(json.dumps(index, indent=2, sort_keys=True) + '\n')
  return [*files, name]
