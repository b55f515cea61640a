"""Any format into one `Checkpoint`, compared with its architecture."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Any

import numpy as np

from btr_jax import config as config_lib
from btr_jax.interop import (
  architecture,
  formats,
  huggingface,
  names,
  onnx_files,
  onnx_packages,
  onnx_t5,
  safetensors_files,
  t5x_checkpoints,
  tokenizer_json,
)
from btr_jax.interop.checkpoint import (
  Checkpoint,
  ConversionError,
  check_tensors,
)
from btr_jax.models import reader_files

_FROM_SHAPES = 'the shapes of the weights'


@dataclasses.dataclass(frozen=True)
class ReadOptions:
  """What a source does not say by itself.

  Attributes:
    config: a config.json of Hugging Face or a reader.json; None takes what
      lies beside the weights, or else their shapes.
    split_layer: k of the paper; None for the configuration's, or three
      quarters of the layers.
    step: which checkpoint of a folder of T5X; None for the newest.
    codec: kind of the token codec, where names do not tell.
    scratch: folder for the vocabulary of a source that has it in another
      form, to be kept until the checkpoint is written; None leaves it out.
  """

  config: pathlib.Path | None = None
  split_layer: int | None = None
  step: int | None = None
  codec: str | None = None
  scratch: pathlib.Path | None = None


def _given(path: pathlib.Path, options: ReadOptions) -> dict[str, Any]:
  """Fields of a Checkpoint from a config.json or a reader.json."""
  values = huggingface.read_json(path)
  if 'format_version' not in values:
    config = architecture.from_hugging_face(
      values, str(path), options.split_layer
    )
    return {'config': config, 'config_source': path.name}
  return _described(path, values, options)


def _described(
  path: pathlib.Path, description: Mapping[str, Any], options: ReadOptions
) -> dict[str, Any]:
  """Fields of a Checkpoint from the contents of a reader.json."""
  if description['format_version'] != reader_files.FORMAT_VERSION:
    raise ConversionError(
      f'{path} has format_version {description["format_version"]!r}; this '
      f'btr_jax reads {reader_files.FORMAT_VERSION}.'
    )
  config = config_lib.ReaderConfig.from_dict(description['config'])
  if options.split_layer is not None:
    config = dataclasses.replace(config, split_layer=options.split_layer)
  return {
    'config': config,
    'config_source': path.name,
    'limits': config_lib.InputLimits.from_dict(description['limits']),
    'vocabulary': path.parent / description['vocabulary'],
    'extra_ids': description['extra_ids'],
  }


def _read_torch(
  path: pathlib.Path, family: str, options: ReadOptions
) -> Checkpoint:
  tensors, left_out, step, weights = huggingface.read_weights(path)
  # Atlas keeps no config.json; one beside its file would be of another model.
  beside = (
    huggingface.config_beside(weights) if family == 'huggingface' else None
  )
  fields: dict[str, Any] = {
    'vocabulary': huggingface.vocabulary_beside(weights),
    'extra_ids': huggingface.extra_ids_beside(weights),
  }
  described, tensors = _with_architecture(
    tensors, options.config or beside, str(weights), options
  )
  fields.update(described)
  renamed, more = names.from_torch(tensors, fields['config'], str(weights))
  return Checkpoint(
    family=family,
    tensors=renamed,
    step=step or 0,
    left_out={**left_out, **more},
    **fields,
  )


def _with_architecture(
  tensors: dict[str, np.ndarray],
  config_path: pathlib.Path | None,
  source: str,
  options: ReadOptions,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """(fields of a Checkpoint, the tensors as its architecture has them)."""
  if config_path is None:
    config = architecture.from_shapes(
      names.torch_shapes(tensors, source), source, options.split_layer
    )
    return {'config': config, 'config_source': _FROM_SHAPES}, tensors
  values = huggingface.read_json(config_path)
  if values.get('scale_decoder_outputs') is False:
    tensors = names.with_logits(tensors)
  return _given(config_path, options), tensors


def _read_onnx(path: pathlib.Path, options: ReadOptions) -> Checkpoint:
  package = onnx_packages.read(path)
  graphs = {
    stack: onnx_files.read(package.files[file], f'{path}: {file}')
    for stack, file in onnx_packages.STACKS.items()
  }
  tensors = onnx_t5.torch_tensors(graphs, str(path))
  fields: dict[str, Any] = {}
  if options.scratch is not None:
    model, fields['extra_ids'] = tokenizer_json.read(
      package.files[onnx_packages.TOKENIZER],
      f'{path}: {onnx_packages.TOKENIZER}',
    )
    fields['vocabulary'] = options.scratch / huggingface.VOCABULARY_FILE
    fields['vocabulary'].write_bytes(model)
  described, tensors = _with_architecture(
    tensors, options.config, str(path), options
  )
  fields.update(described)
  if options.config is None:
    gated = len(fields['config'].mlp_activations) == 2
    onnx_t5.check_activation(graphs, gated, str(path))
  renamed, left_out = names.from_torch(tensors, fields['config'], str(path))
  return Checkpoint(
    family='onnx',
    tensors=renamed,
    left_out=left_out,
    provenance=package.provenance,
    **fields,
  )


def _codec_config(
  shapes: Mapping[str, tuple[int, ...]], embed_dim: int, kind: str | None
) -> config_lib.CodecConfig | None:
  """The codec that parameters belong to; None if there are none."""
  level = shapes.get('codec/level')
  if level is not None:
    bits = level[0] if level else 0
    return config_lib.CodecConfig(
      'residual', bits if bits != embed_dim else None
    )
  if not any(name.startswith('codec/') for name in shapes):
    return None
  if kind is None:
    raise ConversionError(
      'The checkpoint has a codec whose names fit both `calibrated` and '
      '`sign`: say which by --codec, or give --config with its reader.json.'
    )
  return config_lib.CodecConfig(kind)


def _read_t5x(path: pathlib.Path, options: ReadOptions) -> Checkpoint:
  tensors, step = t5x_checkpoints.read(path, options.step)
  shapes = {name: tuple(value.shape) for name, value in tensors.items()}
  if options.config is not None:
    fields = _given(options.config, options)
  else:
    embedding = shapes.get(names.EMBEDDING, ())
    codec = _codec_config(
      shapes, embedding[-1] if embedding else 0, options.codec
    )
    config = architecture.from_shapes(
      shapes.get, str(path), options.split_layer, codec
    )
    fields = {'config': config, 'config_source': _FROM_SHAPES}
  has_codec = any(name.startswith('codec/') for name in tensors)
  check_tensors(tensors, names.shapes(fields['config'], has_codec), str(path))
  return Checkpoint(family='t5x', tensors=tensors, step=step, **fields)


def _read_reader(path: pathlib.Path, options: ReadOptions) -> Checkpoint:
  if options.config is not None:
    raise ConversionError(
      f'--config has no meaning for {path}: a reader directory has its own '
      f'configuration in {reader_files.READER_FILE}.'
    )
  file = path / reader_files.READER_FILE
  description = huggingface.read_json(file)
  fields = _described(file, {'format_version': None, **description}, options)
  weights = path / reader_files.WEIGHTS_FILE
  tensors = safetensors_files.read_file(weights)
  has_codec = any(name.startswith('codec/') for name in tensors)
  wanted = names.shapes(fields['config'], has_codec)
  check_tensors(tensors, wanted, str(weights))
  provenance: dict[str, Any] = dict(description.get('provenance', {}))
  step = provenance.get('step', 0)
  return Checkpoint(
    family='btr',
    tensors=tensors,
    step=step if isinstance(step, int) and step >= 0 else 0,
    provenance=provenance,
    **fields,
  )


def read(
  path: pathlib.Path, family: str, options: ReadOptions = ReadOptions()
) -> Checkpoint:
  """Reads a checkpoint of a given format.

  Args:
    path: file or folder.
    family: one of `formats.SOURCES`.
    options: what the source does not say.

  Returns:
    The checkpoint, its tensors compared with its architecture.

  Raises:
    ConversionError: unreadable, of another architecture, or not whole.
  """
  config_lib.check_choice('format', family, formats.SOURCES)
  if family == 'btr':
    return _read_reader(path, options)
  if family == 't5x':
    return _read_t5x(path, options)
  if family == 'onnx':
    return _read_onnx(path, options)
  return _read_torch(path, family, options)
