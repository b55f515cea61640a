"""What a reader has learnt, without the reader that it started from.

A reader trained by adapters (`models/adapters.py`) differs from its base by
thin matrices, a token codec and little else: megabytes where the reader has
hundreds. A delta holds these, and the base's fingerprint:

  delta.json         configuration, limits, base, provenance
  delta.safetensors  per changed matrix two thin ones in eight bits (codes and
                     a scale each, as in `models/quantized.py`), the codec's
                     tables as maps of the embedding in as many, other
                     tensors as they are

Deltas are small enough to ship where weights are not, and say nothing of
matrices that did not change.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import hashlib
import json
import pathlib
from typing import Any

import jax.numpy as jnp
from jaxtyping import Float
import numpy as np
import safetensors
import safetensors.flax

from btr_jax import config as config_lib
from btr_jax.models import model as model_lib
from btr_jax.models import quantized, reader_files

FORMAT_VERSION = 1
DESCRIPTION_FILE = 'delta.json'
WEIGHTS_FILE = 'delta.safetensors'

_EMBEDDING = 'token_embedder/embedding'
_TABLE = 'codec/table'
_DOWN, _UP, _MAP, _WHOLE = 'down', 'up', 'map', 'whole'
_OF = '//'  # Between the name of a parameter and a part of its change.
# Singular values below this share of the largest are rounding.
_NEGLIGIBLE = 1e-4
# Of a table, what a map of the embedding may miss.
_TABLE_ERROR = 1e-4


class DeltaError(ValueError):
  """A delta that cannot be made, read, or applied to this base."""


@dataclasses.dataclass(frozen=True)
class Delta:
  """A delta as read from disk.

  Attributes:
    config: of the reader that it makes.
    limits: lengths of its inputs.
    extra_ids: sentinels of its vocabulary.
    base: `fingerprint` and `name` of the reader that it changes.
    tensors: by name, see the module.
    provenance: how the reader was trained.
  """

  config: config_lib.ReaderConfig
  limits: config_lib.InputLimits
  extra_ids: int
  base: Mapping[str, str]
  tensors: Mapping[str, np.ndarray]
  provenance: Mapping[str, Any]


def fingerprint(params: Mapping[str, Any]) -> str:
  """SHA-256 of all parameters but a codec's, by name, in float32."""
  digest = hashlib.sha256()
  for name, leaf in sorted(model_lib.flat_params(params).items()):
    if not name.startswith('codec/'):
      digest.update(f'{name} {leaf.shape}'.encode())
      digest.update(np.asarray(leaf, np.float32).tobytes())
  return digest.hexdigest()


def _in_eight_bits(matrix, axis):
  """codes and scale of a matrix; one scale for each index of `axis`."""
  largest = np.abs(matrix).max(axis=1 - axis, keepdims=True)
  scale = np.where(largest > 0, largest, 1.0) / 127
  codes = np.round(matrix / scale).astype(np.int8)
  return {quantized.CODES: codes, quantized.SCALE: scale.astype(np.float32)}


def _thin(name, change, max_rank):
  """The two thin matrices whose product a change is."""
  left, values, right = np.linalg.svd(change, full_matrices=False)
  rank = int((values > _NEGLIGIBLE * values[0]).sum())
  if rank > max_rank:
    raise DeltaError(
      f'{name} changed by a matrix of rank {rank}; expected at most '
      f'{max_rank}. Deltas are of readers that were trained by adapters '
      '(ADAPTER_RANK); ship others whole.'
    )
  root = np.sqrt(values[:rank])
  down = _in_eight_bits(left[:, :rank] * root, axis=1)
  up = _in_eight_bits(right[:rank] * root[:, None], axis=0)
  return {_DOWN: down, _UP: up}


def _as_map(
  name: str,
  table: Float[np.ndarray, 'vocab embed'],
  embedding: Float[np.ndarray, 'vocab embed'],
) -> dict[str, Any]:
  """A table as a map of the embedding, [embed + 1, embed], the last row added
  to all."""
  features = np.concatenate([embedding, np.ones((len(embedding), 1))], axis=1)
  matrix, *_ = np.linalg.lstsq(features, table, rcond=None)
  missed = np.square(features @ matrix - table).sum()
  share = missed / max(np.square(table).sum(), 1e-30)
  if share > _TABLE_ERROR:
    raise DeltaError(
      f'{name} is no linear map of the embedding: that misses {share:.2g} of '
      f'it; expected at most {_TABLE_ERROR}. Fit the codec with '
      "prediction='embedding', and train by adapters, which leave it alone."
    )
  return {_MAP: _in_eight_bits(matrix, axis=0)}


def differences(
  base: Mapping[str, Any], params: Mapping[str, Any], max_rank: int
) -> dict[str, np.ndarray]:
  """What makes one reader of another, as tensors by name.

  Args:
    base: parameters that both started from.
    params: of the reader.
    max_rank: of the changes of matrices.

  Returns:
    Arrays to store.

  Raises:
    DeltaError: a change that is not thin, a table that is no map, or a
      parameter that the base lacks.
  """
  given = {
    name: np.asarray(leaf, np.float64)
    for name, leaf in model_lib.flat_params(base).items()
  }
  found: dict[str, Any] = {}
  for name, leaf in sorted(model_lib.flat_params(params).items()):
    value = np.asarray(leaf, np.float64)
    if name.startswith(_TABLE):
      found[name] = _as_map(name, value, given[_EMBEDDING])
    elif name.startswith('codec/'):
      found[name] = {_WHOLE: value.astype(np.float32)}
    elif name not in given or given[name].shape != value.shape:
      raise DeltaError(
        f'{name} {value.shape} is not in the base, which has '
        f'{given[name].shape if name in given else "none"}; expected the '
        'reader that training started from.'
      )
    elif np.array_equal(given[name], value):
      continue
    elif name.endswith('/kernel'):
      found[name] = _thin(name, value - given[name], max_rank)
    else:
      found[name] = {_WHOLE: value.astype(np.float32)}
  return {
    f'{name}{_OF}{part}': value
    for name, node in found.items()
    for part, value in model_lib.flat_params(node).items()
  }


def save(
  path: pathlib.Path,
  base: reader_files.LoadedReader,
  reader: reader_files.LoadedReader,
  base_name: str,
  max_rank: int = 64,
) -> int:
  """Writes the delta that makes `reader` of `base`; delta.json last.

  Args:
    path: folder to make.
    base: what training started from.
    reader: what it made.
    base_name: tells people where to get the base.
    max_rank: of the changes of matrices.

  Returns:
    Bytes of the tensors' file.

  Raises:
    DeltaError: see `differences`.
  """
  tensors = differences(base.params, reader.params, max_rank)
  path.mkdir(parents=True, exist_ok=True)
  data = safetensors.flax.save(
    {name: jnp.asarray(value) for name, value in tensors.items()}
  )
  reader_files.write_atomically(path / WEIGHTS_FILE, data)
  description = {
    'format_version': FORMAT_VERSION,
    'config': reader.config.to_dict(),
    'limits': reader.limits.to_dict(),
    'extra_ids': reader.vocabulary.num_extra_ids,
    'base': {'name': base_name, 'fingerprint': fingerprint(base.params)},
    'provenance': dict(reader.provenance),
  }
  text = json.dumps(description, indent=2, sort_keys=True) + '\n'
  reader_files.write_atomically(path / DESCRIPTION_FILE, text.encode())
  return len(data)


def load(path: pathlib.Path) -> Delta:
  """Reads a delta.

  Raises:
    DeltaError: missing, damaged, or of another format.
  """
  try:
    description = json.loads((path / DESCRIPTION_FILE).read_text())
    tensors = reader_files.tensors_of((path / WEIGHTS_FILE).read_bytes())
  except (
    OSError,
    ValueError,
    KeyError,
    safetensors.SafetensorError,
  ) as error:
    raise DeltaError(
      f'Cannot read the delta {path}: {error}. Expected a folder with '
      f'{DESCRIPTION_FILE} and {WEIGHTS_FILE}, as `btr delta pack` writes.'
    ) from error
  version = description.get('format_version')
  if version != FORMAT_VERSION:
    raise DeltaError(
      f'{path / DESCRIPTION_FILE} has format_version {version!r}; this btr_jax '
      f'reads {FORMAT_VERSION}.'
    )
  return Delta(
    config_lib.ReaderConfig.from_dict(description['config']),
    config_lib.InputLimits.from_dict(description['limits']),
    description['extra_ids'],
    description['base'],
    tensors,
    description.get('provenance', {}),
  )


def applied(delta: Delta, base: Mapping[str, Any]) -> dict[str, Any]:
  """Parameters of the reader that a delta makes of its base.

  Args:
    delta: of `load`.
    base: parameters of the base; a codec in it is dropped.

  Returns:
    Nested parameters, float32.

  Raises:
    DeltaError: another base.
  """
  found = fingerprint(base)
  if found != delta.base['fingerprint']:
    raise DeltaError(
      f'The delta is one of {delta.base["name"]}, fingerprint '
      f'{delta.base["fingerprint"][:16]}...; the base given has '
      f'{found[:16]}.... Convert that base with `btr convert`.'
    )
  flat = {
    name: jnp.asarray(leaf, jnp.float32)
    for name, leaf in model_lib.flat_params(base).items()
    if not name.startswith('codec/')
  }
  parts: dict[str, dict[str, Any]] = {}
  for key, value in delta.tensors.items():
    name, _, part = key.partition(_OF)
    parts.setdefault(name, {})[part] = value
  for name, node in parts.items():
    flat[name] = _value(node, flat.get(name), flat[_EMBEDDING])
  return model_lib.nested_params(flat)


def _value(node, base, embedding):
  if _WHOLE in node:
    return jnp.asarray(node[_WHOLE], jnp.float32)
  if f'{_MAP}/{quantized.CODES}' in node:
    matrix = _matrix(node, _MAP)
    offset = jnp.broadcast_to(matrix[-1], embedding.shape)
    return jnp.dot(embedding, matrix[:-1]) + offset
  return base + jnp.dot(_matrix(node, _DOWN), _matrix(node, _UP))


def _matrix(node, name):
  parts = (quantized.CODES, quantized.SCALE)
  return quantized.dequantize({part: node[f'{name}/{part}'] for part in parts})
