"""A `Checkpoint` into any format, and back again to compare every bit."""

from __future__ import annotations

import dataclasses
import pathlib

from btr_jax import config as config_lib
from btr_jax.data import vocabulary as vocabulary_lib
from btr_jax.interop import (
  architecture,
  atlas,
  formats,
  huggingface,
  names,
  safetensors_files,
  t5x_checkpoints,
)
from btr_jax.interop.checkpoint import Checkpoint, ConversionError, same_bits
from btr_jax.models import reader_files

MAX_SHARD_BYTES = 5 * 10**9


def without_codec(checkpoint: Checkpoint) -> Checkpoint:
  """The checkpoint less the parameters of its token codec."""
  kept = {
    name: value
    for name, value in checkpoint.tensors.items()
    if not name.startswith('codec/')
  }
  number = len(checkpoint.tensors) - len(kept)
  left_out = dict(checkpoint.left_out)
  if number:
    left_out['the token codec'] = number
  return dataclasses.replace(checkpoint, tensors=kept, left_out=left_out)


def check_writable(checkpoint: Checkpoint, family: str) -> None:
  """Refuses what a format cannot hold, before anything is written.

  Raises:
    ConversionError: with what is missing or too much, and the flag for it.
  """
  config_lib.check_choice('format', family, formats.FAMILIES)
  if family in ('huggingface', 'atlas'):
    if checkpoint.has_codec:
      raise ConversionError(
        f'The format {family} has no place for the token codec '
        f'({checkpoint.config.codec.kind}) of this reader. --without-codec '
        'leaves it out; what remains are the weights of its decomposed '
        'encoder, so the joint reader of stage 1 is the better one to export.'
      )
    architecture.to_hugging_face(checkpoint.config, 'float32')
  if family == 'btr' and checkpoint.vocabulary is None:
    raise ConversionError(
      'A reader needs its SentencePiece vocabulary, and none lies beside the '
      f"weights: give --vocabulary ({huggingface.VOCABULARY_FILE}; T5's has "
      '32,000 pieces).'
    )
  if checkpoint.vocabulary is None:
    return
  vocabulary = vocabulary_lib.Vocabulary(
    checkpoint.vocabulary, checkpoint.extra_ids
  )
  if vocabulary.vocab_size > checkpoint.config.vocab_size:
    raise ConversionError(
      f'{checkpoint.vocabulary} has {vocabulary.vocab_size} ids with '
      f'{checkpoint.extra_ids} sentinels, but the embedding has '
      f'{checkpoint.config.vocab_size} rows. Give the vocabulary that the '
      'weights were trained with; --extra-ids 0 if it holds its sentinels.'
    )


def write(
  checkpoint: Checkpoint,
  path: pathlib.Path,
  family: str,
  max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
  """Writes a checkpoint; `path` must not exist yet.

  Args:
    checkpoint: what to write; `check_writable` has passed.
    path: file (atlas) or folder to make.
    family: one of `formats.FAMILIES`.
    max_shard_bytes: of tensors in one safetensors file (huggingface).

  Raises:
    ConversionError: the format cannot hold it.
  """
  check_writable(checkpoint, family)
  if family == 'btr':
    # Not `save_reader`, which holds all tensors twice and has two dtypes.
    path.mkdir()
    weights = path / reader_files.WEIGHTS_FILE
    safetensors_files.write_file(weights, checkpoint.tensors)
    reader_files.save_description(
      path,
      checkpoint.config,
      checkpoint.limits or config_lib.InputLimits(),
      checkpoint.vocabulary,
      extra_ids=checkpoint.extra_ids,
      provenance=checkpoint.provenance,
    )
  elif family == 't5x':
    t5x_checkpoints.write(path, checkpoint.tensors, checkpoint.step)
  elif family == 'atlas':
    atlas.write(path, names.to_torch(checkpoint.tensors), checkpoint.step)
  else:
    path.mkdir()
    huggingface.write(
      path, checkpoint, names.to_torch(checkpoint.tensors), max_shard_bytes
    )


def verify(checkpoint: Checkpoint, path: pathlib.Path, family: str) -> None:
  """Reads back what was written and compares every bit.

  Raises:
    ConversionError: something differs; the disk or this program is at fault.
  """
  if family == 't5x':
    again, _ = t5x_checkpoints.read(path)
  elif family == 'btr':
    again = safetensors_files.read_file(path / reader_files.WEIGHTS_FILE)
  else:
    tensors, *_ = huggingface.read_weights(path)
    again, _ = names.from_torch(tensors, checkpoint.config, str(path))
  wrong = [
    name
    for name in sorted(set(again) | set(checkpoint.tensors))
    if name not in again
    or name not in checkpoint.tensors
    or not same_bits(again[name], checkpoint.tensors[name])
  ]
  if wrong:
    raise ConversionError(
      f'What was written to {path} does not read back: {wrong[:20]}. Check '
      'the disk, then convert again.'
    )
