"""A SentencePiece model out of the tokenizer.json of a T5.

Both hold the pieces, their scores and the table that normalises characters;
the sentinels, which tokenizer.json counts among the pieces, come from
`Vocabulary`. Of sentencepiece_model.proto these fields are written:

  ModelProto      pieces 1, trainer_spec 2, normalizer_spec 3
  SentencePiece   piece 1, score 2, type 3
  TrainerSpec     model_type 3, vocab_size 4, unk_id 40, bos_id 41, eos_id 42,
                  pad_id 43, unk_piece 45, eos_piece 47, pad_piece 48
  NormalizerSpec  name 1, precompiled_charsmap 2, add_dummy_prefix 3,
                  remove_extra_whitespaces 4, escape_whitespaces 5

They are written by hand and not by sentencepiece's protobuf class: a cache's
fingerprint covers this file, whose bytes must not depend on what is installed.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
import json
from typing import Any

from btr_jax.data import vocabulary as vocabulary_lib
from btr_jax.interop import wire
from btr_jax.interop.checkpoint import ConversionError

_UNIGRAM = 1  # TrainerSpec.ModelType
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4  # SentencePiece.Type
_SPACE = '▁'
# Both stand for SentencePiece's remove_extra_whitespaces.
_FOR_SPACES = ('Replace', 'Strip')
# What JSON of another form leads to.
_MISSHAPEN = (KeyError, TypeError, AttributeError, IndexError, RecursionError)
# Scores are logarithms of probabilities, in float32.
_MAX_SCORE = 1e30


def read(data: bytes, source: str) -> tuple[bytes, int]:
  """The SentencePiece model that gives the same ids.

  Args:
    data: the contents of a tokenizer.json.
    source: its name, for errors.

  Returns:
    (the model file's contents, the number of sentinels left out of it).

  Raises:
    ConversionError: no unigram tokenizer with T5's pad, eos and unk, or one
      that SentencePiece cannot follow.
  """
  try:
    values = json.loads(data)
    pieces, types = _pieces(values)
    charsmap = _charsmap(values)
    _check_spaces(values)
    extra_ids = _take_sentinels(pieces)
    _check(pieces, types)
    return _serialise(pieces, types, charsmap), extra_ids
  except (ValueError, *_MISSHAPEN) as error:
    kind = f'{type(error).__name__}: ' if isinstance(error, _MISSHAPEN) else ''
    raise ConversionError(
      f'Cannot read {source}: {kind}{error}. Expected the tokenizer.json of a '
      'T5, with the model Unigram; or give --vocabulary with its spiece.model.'
    ) from error


def _pieces(
  values: Mapping[str, Any],
) -> tuple[list[tuple[str, float]], dict[str, int]]:
  """(pieces with scores in the order of ids, types of those not normal)."""
  model = values['model']
  if model['type'] != 'Unigram' or model.get('byte_fallback', False):
    raise ConversionError(
      f'its model is {model["type"]} with byte_fallback '
      f'{model.get("byte_fallback", False)}, not Unigram without'
    )
  pieces = [(str(piece), float(score)) for piece, score in model['vocab']]
  types = {}
  for token in sorted(values['added_tokens'], key=lambda token: token['id']):
    number, text = token['id'], str(token['content'])
    if number == len(pieces):
      pieces.append((text, 0.0))
    elif not 0 <= number < len(pieces) or pieces[number][0] != text:
      raise ConversionError(
        f'its added token {text!r} has the id {number}, where its model of '
        f'{len(pieces)} pieces has another or none'
      )
    types[text] = _CONTROL if token['special'] else _USER_DEFINED
  types[pieces[model['unk_id']][0]] = _UNKNOWN
  return pieces, types


def _charsmap(values: Mapping[str, Any]) -> bytes:
  """The table of the normaliser, which must do nothing but SentencePiece's."""
  normalizer = values['normalizer']
  steps = (
    normalizer['normalizers']
    if normalizer['type'] == 'Sequence'
    else [normalizer]
  )
  tables = [step for step in steps if step['type'] == 'Precompiled']
  others = [step for step in steps if step['type'] != 'Precompiled']
  if len(tables) != 1 or any(
    step['type'] not in _FOR_SPACES
    or (
      step['type'] == 'Replace'
      and (step['pattern'], step['content'])
      not in [({'Regex': ' {2,}'}, space) for space in (' ', _SPACE)]
    )
    for step in others
  ):
    raise ConversionError(
      f'its normalizer is {[step["type"] for step in steps]}; SentencePiece '
      'can follow one Precompiled, and Strip or Replace of many spaces by one'
    )
  try:
    return base64.b64decode(tables[0]['precompiled_charsmap'], validate=True)
  except binascii.Error as error:
    raise ConversionError(f'its precompiled_charsmap: {error}') from error


def _check_spaces(values: Mapping[str, Any]) -> None:
  """Refuses what is not add_dummy_prefix with escaped spaces."""
  step = values['pre_tokenizer']
  steps = step['pretokenizers'] if step['type'] == 'Sequence' else [step]
  kinds = [step['type'] for step in steps]
  last = steps[-1]
  scheme = last.get('prepend_scheme', 'always')
  if (
    kinds not in (['Metaspace'], ['WhitespaceSplit', 'Metaspace'])
    or last['replacement'] != _SPACE
    or scheme != 'always'
    or not last.get('add_prefix_space', True)
  ):
    raise ConversionError(
      f'its pre_tokenizer is {kinds} with the replacement '
      f'{last.get("replacement")!r} and the prepend_scheme {scheme!r}, not '
      f'Metaspace with {_SPACE!r} and always'
    )


def _take_sentinels(pieces: list[tuple[str, float]]) -> int:
  """Removes "<extra_id_{n-1}>" to "<extra_id_0>" from the end, and counts."""
  number = 0
  while pieces and pieces[-1][0] == f'<extra_id_{number}>':
    pieces.pop()
    number += 1
  return number


def _check(pieces: list[tuple[str, float]], types: Mapping[str, int]) -> None:
  names = [piece for piece, _ in pieces]
  special = [types.get(piece, _NORMAL) for piece in names]
  wanted = {
    vocabulary_lib.PAD_ID: _CONTROL,
    vocabulary_lib.EOS_ID: _CONTROL,
    vocabulary_lib.UNK_ID: _UNKNOWN,
  }
  if any(special[number] != kind for number, kind in wanted.items()):
    raise ConversionError(
      f'its first pieces are {names[:3]} of the types {special[:3]}; expected '
      f'pad, eos and unk of the types {list(wanted.values())}'
    )
  if special.count(_UNKNOWN) != 1 or len(set(names)) != len(names):
    raise ConversionError('it has a piece twice')
  wrong = [
    piece for piece, score in pieces if not (piece and abs(score) < _MAX_SCORE)
  ]
  if wrong:
    raise ConversionError(
      f'{len(wrong)} pieces are empty or have no finite score, such as '
      f'{wrong[0]!r}'
    )


def _serialise(
  pieces: list[tuple[str, float]], types: Mapping[str, int], charsmap: bytes
) -> bytes:
  result = []
  for piece, score in pieces:
    message = wire.field(1, piece) + wire.field(2, score)
    if piece in types:  # sentencepiece too leaves out the default, normal.
      message += wire.field(3, types[piece])
    result.append(wire.field(1, message))
  trainer = {
    3: _UNIGRAM,
    4: len(pieces),
    40: vocabulary_lib.UNK_ID,
    41: -1,  # T5 has no piece that begins a sentence.
    42: vocabulary_lib.EOS_ID,
    43: vocabulary_lib.PAD_ID,
    45: pieces[vocabulary_lib.UNK_ID][0],
    47: pieces[vocabulary_lib.EOS_ID][0],
    48: pieces[vocabulary_lib.PAD_ID][0],
  }
  # sentencepiece's name for a table that is none of its own.
  normalizer = {1: 'user_defined', 2: charsmap, 3: True, 4: True, 5: True}
  for number, spec in ((2, trainer), (3, normalizer)):
    message = b''.join(wire.field(key, value) for key, value in spec.items())
    result.append(wire.field(number, message))
  return b''.join(result)
