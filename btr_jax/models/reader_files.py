"""Reader directories: a trained reader as files that need no pickle.

  reader.json         configuration, limits, vocabulary, provenance
  model.safetensors   parameters by T5X's names ('encoder/layers_0/...')
  vocabulary.model    the SentencePiece model (or a relative path to one)

A *family* directory holds several of them, one per mode of encoding, and a
family.json that says which reader serves which mode and codec.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.flax

from btr_jax import config as config_lib
from btr_jax.data import records
from btr_jax.data import vocabulary as vocabulary_lib
from btr_jax.models import frozen, quantized, token_codec
from btr_jax.models import model as model_lib

FORMAT_VERSION = 1
READER_FILE = 'reader.json'
FAMILY_FILE = 'family.json'
WEIGHTS_FILE = 'model.safetensors'
VOCABULARY_FILE = 'vocabulary.model'
_DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}
_STORED_DTYPES = {
  'F32': np.float32,
  'BF16': jnp.bfloat16,
  'F16': np.float16,
  'I8': np.int8,
  'U8': np.uint8,
}


class ReaderFileError(ValueError):
  """A reader directory that is missing, damaged or of another format."""


@dataclasses.dataclass(frozen=True)
class LoadedReader:
  """A reader, ready to be applied.

  Attributes:
    model: the model object, in the mode asked for.
    params: parameters, float32; matrices may be `quantized`.
    config: architecture and codec.
    limits: lengths that inputs are padded to.
    vocabulary: the tokenizer.
    fingerprint: SHA-256 of the configuration and of the weights below the
      split: what a cache was built with must equal what reads it.
    path: where it was read from.
    provenance: how it was trained, as the file says.
  """

  model: model_lib.BtrModel
  params: Mapping[str, Any]
  config: config_lib.ReaderConfig
  limits: config_lib.InputLimits
  vocabulary: vocabulary_lib.Vocabulary
  fingerprint: str
  path: pathlib.Path
  provenance: Mapping[str, Any]

  def whole_fingerprint(self) -> str:
    """SHA-256 of all that answers depend on: what stands above the split,
    lengths and vocabulary included."""
    weights = (self.path / WEIGHTS_FILE).read_bytes()
    described = [
      hashlib.sha256(weights).hexdigest(),
      self.config.to_dict(),
      self.limits.to_dict(),
      self.vocabulary.fingerprint,
    ]
    text = json.dumps(described, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()

  @property
  def model_bytes(self) -> int:
    """Size of the file with the weights."""
    return (self.path / WEIGHTS_FILE).stat().st_size


def write_atomically(path: str | os.PathLike, data: bytes) -> None:
  """Writes beside `path`, syncs, renames: never half a file."""
  with records.atomic_writer(path, binary=True) as file:
    file.write(data)


def save_reader(
  path: str | os.PathLike,
  config: config_lib.ReaderConfig,
  limits: config_lib.InputLimits,
  params: Mapping[str, Any],
  vocabulary_file: str | os.PathLike,
  *,
  extra_ids: int = 100,
  provenance: Mapping[str, Any] | None = None,
  dtype: str = 'float32',
  shared_vocabulary: bool = False,
) -> pathlib.Path:
  """Writes a reader directory; reader.json last, so that it marks it whole.

  Args:
    path: folder to make.
    config: architecture and codec.
    limits: lengths of the inputs.
    params: nested parameters; codes and scales of quantized ones are written
      in their own types.
    vocabulary_file: SentencePiece model to copy in.
    extra_ids: sentinels added behind its pieces.
    provenance: how the reader was made, for people.
    dtype: `float32`, or `bfloat16` for half the bytes.
    shared_vocabulary: keep the vocabulary in the parent folder, once for all
      readers of a family.

  Returns:
    The folder.

  Raises:
    ValueError: unknown dtype.
  """
  config_lib.check_choice('dtype', dtype, tuple(_DTYPES))
  path = pathlib.Path(path)
  path.mkdir(parents=True, exist_ok=True)
  flat = model_lib.flat_params(params)
  kept = quantized.stored_names(set(flat))
  flat = {
    name: jnp.asarray(value, None if name in kept else _DTYPES[dtype])
    for name, value in flat.items()
  }
  aside = path / f'.{WEIGHTS_FILE}'
  write_atomically(aside, safetensors.flax.save(flat))
  # A reader that was here is whole until now, and never has these weights.
  (path / READER_FILE).unlink(missing_ok=True)
  aside.replace(path / WEIGHTS_FILE)
  save_description(
    path,
    config,
    limits,
    vocabulary_file,
    extra_ids=extra_ids,
    provenance=provenance,
    shared_vocabulary=shared_vocabulary,
  )
  return path


def save_description(
  path: pathlib.Path,
  config: config_lib.ReaderConfig,
  limits: config_lib.InputLimits,
  vocabulary_file: str | os.PathLike,
  *,
  extra_ids: int = 100,
  provenance: Mapping[str, Any] | None = None,
  shared_vocabulary: bool = False,
) -> None:
  """Writes all of a reader directory but its weights, which stand already.

  Args:
    path: the folder, with `WEIGHTS_FILE` in it.
    config: see `save_reader`, also for the others.
    limits: lengths of the inputs.
    vocabulary_file: SentencePiece model to copy in.
    extra_ids: sentinels added behind its pieces.
    provenance: how the reader was made.
    shared_vocabulary: keep the vocabulary in the parent folder.
  """
  vocabulary_file = pathlib.Path(vocabulary_file)
  stored = f'../{VOCABULARY_FILE}' if shared_vocabulary else VOCABULARY_FILE
  if vocabulary_file.resolve() != (path / stored).resolve():
    write_atomically((path / stored).resolve(), vocabulary_file.read_bytes())
  description = {
    'format_version': FORMAT_VERSION,
    'config': config.to_dict(),
    'limits': limits.to_dict(),
    'vocabulary': stored,
    'extra_ids': extra_ids,
    'provenance': dict(provenance or {}),
  }
  text = json.dumps(description, indent=2, sort_keys=True) + '\n'
  write_atomically(path / READER_FILE, text.encode())


def tensors_of(raw: bytes) -> dict[str, np.ndarray]:
  """The tensors of a safetensors file, in the types that readers have.

  Raises:
    SafetensorError: no such file.
    KeyError: a tensor of another type.
  """
  # Not safetensors.numpy.load: it does not know bfloat16.
  return {
    name: np.frombuffer(
      tensor['data'], _STORED_DTYPES[tensor['dtype']]
    ).reshape(tensor['shape'])
    for name, tensor in safetensors.deserialize(raw)
  }


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  try:
    return json.loads(path.read_text())
  except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
    raise ReaderFileError(f'Cannot read {path}: {error}.') from error


def resolve_family(
  path: str | os.PathLike, mode: str | None, codec: str | None
) -> pathlib.Path:
  """The reader directory that serves a mode; `path` itself if no family.

  Raises:
    ReaderFileError: neither a reader nor a family, or the family lacks it.
  """
  path = pathlib.Path(path)
  if (path / READER_FILE).is_file():
    return path
  if not (path / FAMILY_FILE).is_file():
    raise ReaderFileError(
      f'{path} is no reader: it has neither {READER_FILE} nor {FAMILY_FILE}. '
      'Give a folder that training wrote (MODEL_DIR/stage3_.../reader) or '
      'that `btr convert` made.'
    )
  family = _read_json(path / FAMILY_FILE)
  name = mode or 'binary'
  if name == 'binary' and codec == 'float':
    name = 'decomposed'
  elif name == 'binary':
    name = codec or family.get('default_codec', 'residual')
  if name not in family:
    held = sorted(set(family) - {'default_codec'})
    raise ReaderFileError(
      f'The family {path} has no reader for {name!r}; it has {held}.'
    )
  return path / family[name]


def _check_params(flat, model, path):
  """Compares names and shapes with what the configuration builds."""
  import jax

  expected = jax.eval_shape(
    lambda: model.get_initial_variables(
      jax.random.key(0), model.input_shapes()
    )['params']
  )
  expected = {
    name: value.shape for name, value in model_lib.flat_params(expected).items()
  }
  try:
    whole = jax.eval_shape(
      quantized.dequantize_params, model_lib.nested_params(flat)
    )
  except ValueError as error:
    raise ReaderFileError(f'{path}: {error}') from error
  found = {
    name: value.shape for name, value in model_lib.flat_params(whole).items()
  }
  if 'codec' not in {name.split('/')[0] for name in found}:
    expected = {
      name: shape
      for name, shape in expected.items()
      if not name.startswith('codec/')
    }
  lines = [
    f'  {name}: file {found.get(name, "missing")}, '
    f'configuration {expected.get(name, "has none")}'
    for name in sorted(set(expected) | set(found))
    if expected.get(name) != found.get(name)
  ]
  if lines:
    raise ReaderFileError(
      f'{path} does not fit its reader.json:\n' + '\n'.join(lines[:20])
    )


def split_codec(codec: str | None) -> tuple[str | None, int | None]:
  """'residual:64' -> ('residual', 64): a codec, and how many of its bits.

  Raises:
    ValueError: no whole number of bits.
  """
  kind, colon, bits = (codec or '').partition(':')
  if not colon:
    return codec, None
  if not bits.isdecimal():
    raise ValueError(
      f'The codec is {codec!r}; expected a name, or a name and a number of '
      "bits such as 'residual:64'."
    )
  return kind, int(bits)


def _with_fewer_bits(config, flat, bits, path):
  """A residual codec that keeps the first, most telling, directions alone."""
  most = token_codec.kept_directions(config) * config.codec.bits_per_dim
  if config.codec.kind != 'residual' or bits > most:
    held = token_codec.codec_layout(config).bits_bytes * 8
    raise ValueError(
      f'{bits} bits were asked of {path}, whose codec is {config.codec.kind} '
      f'with {held} bits; expected a residual codec with at least as many.'
    )
  narrow = dataclasses.replace(config.codec, num_bits=bits)
  config = dataclasses.replace(config, codec=narrow)
  kept = token_codec.kept_directions(config)
  return config, flat | {
    'codec/rotation': flat['codec/rotation'][:, :kept],
    'codec/level': flat['codec/level'][:kept],
  }


def load_reader(
  path: str | os.PathLike,
  mode: str | None = None,
  codec: str | None = None,
) -> LoadedReader:
  """Reads a reader directory, or the member of a family that serves `mode`.

  Args:
    path: reader or family directory.
    mode: how to answer; None takes binary if the reader has a codec, which the
      other modes leave out.
    codec: which of a family's binary readers; `float` takes the decomposed
      one with a cache of bfloat16 states (DeFormer), 'residual:64' the first
      64 bits of a residual codec with more.

  Returns:
    The reader; parameters in float32, but for quantized ones.

  Raises:
    ReaderFileError: missing, damaged, of another format, or parameters that
      do not fit the configuration (with the differences).
    ValueError: unknown mode, or binary asked of a reader without a codec.
  """
  if mode is not None:
    config_lib.check_choice('mode', mode, config_lib.MODES)
  codec, bits = split_codec(codec)
  path = resolve_family(path, mode, codec)
  description = _read_json(path / READER_FILE)
  version = description.get('format_version')
  if version != FORMAT_VERSION:
    raise ReaderFileError(
      f'{path / READER_FILE} has format_version {version!r}; this btr_jax '
      f'reads {FORMAT_VERSION}.'
    )
  config = config_lib.ReaderConfig.from_dict(description['config'])
  limits = config_lib.InputLimits.from_dict(description['limits'])
  weights = path / WEIGHTS_FILE
  try:
    tensors = tensors_of(weights.read_bytes())
    kept = quantized.stored_names(set(tensors))
    flat = {
      name: jnp.asarray(value, None if name in kept else jnp.float32)
      for name, value in tensors.items()
    }
  except (OSError, KeyError, safetensors.SafetensorError) as error:
    raise ReaderFileError(
      f'Cannot read the weights {weights}: {error}. Copy the reader again, '
      'or export it anew from its checkpoint.'
    ) from error
  has_codec = any(name.startswith('codec/') for name in flat)
  if codec == 'float':
    # It has no parameters, so every reader can have it.
    float_codec = config_lib.CodecConfig('float')
    config = dataclasses.replace(config, codec=float_codec)
    flat = {k: v for k, v in flat.items() if not k.startswith('codec/')}
  elif mode == 'binary' and codec not in (None, config.codec.kind):
    raise ValueError(
      f'{path} was trained with codec {config.codec.kind!r}, not {codec!r}.'
    )
  if bits is not None:
    config, flat = _with_fewer_bits(config, flat, bits, path)
  if mode is None:
    mode = 'binary' if has_codec else 'joint'
  if mode == 'binary' and not has_codec and config.codec.kind != 'float':
    raise ValueError(
      f'{path} has no codec, so it cannot answer in mode binary; train '
      "stage 3, choose mode joint or decomposed, or codec='float'."
    )
  if mode != 'binary':  # No other mode has a codec.
    flat = {k: v for k, v in flat.items() if not k.startswith('codec/')}
  stage = 3 if has_codec else 1
  model = model_lib.BtrModel(config, limits, stage=stage, mode=mode)
  _check_params(flat, model, weights)
  vocabulary = vocabulary_lib.Vocabulary(
    path / description['vocabulary'], extra_ids=description['extra_ids']
  )
  params = model_lib.nested_params(flat)
  return LoadedReader(
    model=model,
    params=params,
    config=config,
    limits=limits,
    vocabulary=vocabulary,
    fingerprint=frozen.fingerprint(params, config),
    path=path,
    provenance=description.get('provenance', {}),
  )
