"""SentencePiece vocabulary with T5's sentinels, without TensorFlow.

Gives the same ids as `seqio.SentencePieceVocabulary(path, extra_ids)`: the
pieces of the file, then "<extra_id_{n-1}>" up to "<extra_id_0>", which is
last.
"""

from collections.abc import Iterable, Sequence
import hashlib
import io
import os
import struct
from typing import SupportsInt

import sentencepiece

from btr_jax.data import prompts, records

PAD_ID = 0
EOS_ID = 1
UNK_ID = 2

_ASCII = ''.join(map(chr, range(0x21, 0x7F)))
_USER_DEFINED = 4  # ModelProto.SentencePiece.Type
_FEW = 64  # Texts for which starting threads takes longer than encoding.


class Vocabulary:
  """Turns text into token ids and back.

  Attributes:
    path: the SentencePiece model file.
    num_extra_ids: how many sentinels follow its pieces.
  """

  pad_id = PAD_ID
  eos_id = EOS_ID
  unk_id = UNK_ID

  def __init__(self, path: str | os.PathLike, extra_ids: int = 100):
    """Loads a model file.

    Args:
      path: a SentencePiece model with pad 0, eos 1 and unk 2.
      extra_ids: number of sentinels; T5's vocabularies have 100.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: not a SentencePiece model, or its special ids differ.
    """
    self.path = os.fspath(path)
    self.num_extra_ids = extra_ids
    if extra_ids < 0:
      raise ValueError(f'extra_ids must not be negative, found {extra_ids}.')
    try:
      with open(self.path, 'rb') as file:
        model = file.read()
    except FileNotFoundError as error:
      raise FileNotFoundError(
        f'There is no vocabulary at {self.path}. Expected a SentencePiece '
        'model file, as train_vocabulary writes or T5 publishes as '
        'spiece.model.'
      ) from error
    self._file_hash = hashlib.sha256(model).hexdigest()
    self._processor = sentencepiece.SentencePieceProcessor()
    try:
      self._processor.LoadFromSerializedProto(
        model + _sentinel_pieces(extra_ids)
      )
    except RuntimeError as error:
      raise ValueError(
        f'{self.path} is not a SentencePiece model: {error}'
      ) from error
    found = (
      self._processor.pad_id(),
      self._processor.eos_id(),
      self._processor.unk_id(),
    )
    if found != (PAD_ID, EOS_ID, UNK_ID):
      raise ValueError(
        f'{self.path}: pad, eos and unk are {found}, expected '
        f'{(PAD_ID, EOS_ID, UNK_ID)}. Train the vocabulary with '
        'train_vocabulary, or with --pad_id=0 --eos_id=1 --unk_id=2 '
        '--bos_id=-1.'
      )

  @property
  def vocab_size(self) -> int:
    """Number of ids, sentinels included."""
    return self._processor.GetPieceSize()

  @property
  def fingerprint(self) -> str:
    """sha256 that changes with the model file and the number of sentinels."""
    text = f'{self._file_hash}:{self.num_extra_ids}'
    return hashlib.sha256(text.encode()).hexdigest()

  @property
  def has_sentinels(self) -> bool:
    """Whether "<extra_id_0>" is a token, added here or in the file."""
    # SeqIO's have the mark of a word before them, those in a file may not.
    names = (f'▁{prompts.SENTINEL}', prompts.SENTINEL)
    return any(self._processor.PieceToId(name) != UNK_ID for name in names)

  def extra_id(self, index: int) -> int:
    """The id of "<extra_id_{index}>".

    Raises:
      ValueError: the vocabulary has no such sentinel.
    """
    if not 0 <= index < self.num_extra_ids:
      raise ValueError(
        f'There is no <extra_id_{index}>: the vocabulary {self.path} was '
        f'opened with extra_ids={self.num_extra_ids}.'
      )
    return self.vocab_size - 1 - index

  def encode(self, text: str) -> list[int]:
    """Token ids of `text`, without eos."""
    return self._processor.EncodeAsIds(text)

  def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, as `encode`; many are shared among the cores."""
    if len(texts) < _FEW:
      return [self.encode(text) for text in texts]
    # The C++ library's threads: Python's would wait for one another.
    return self._processor.Encode(list(texts), out_type=int, num_threads=-1)

  def decode(self, ids: Iterable[SupportsInt]) -> str:
    """Text of `ids` up to the first eos; ids out of range read as unknown."""
    size = self.vocab_size
    kept = []
    for token in ids:
      token = int(token)
      if token == EOS_ID:
        break
      kept.append(token if 0 <= token < size else UNK_ID)
    return self._processor.DecodeIds(kept)

  def pieces(self, ids: Iterable[SupportsInt]) -> list[str]:
    """The piece of each id, for inspection."""
    return [self._processor.IdToPiece(int(token)) for token in ids]


def train_vocabulary(
  texts: Iterable[str],
  path: str | os.PathLike,
  vocab_size: int = 4096,
  character_coverage: float = 0.99995,
) -> None:
  """Trains a unigram model and writes it aside, then renames it.

  The same texts in the same order give the same file. There is no byte
  fallback, as in T5's own vocabulary: 256 of a few thousand pieces would
  hardly ever be used.

  Args:
    texts: what to learn from; formatted as the reader will see it.
    path: file to write.
    vocab_size: pieces including pad, eos and unk, without sentinels.
    character_coverage: share of characters that get a piece; those of ASCII
      always do.

  Raises:
    ValueError: the texts do not yield that many pieces.
  """
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(texts),
      model_writer=model,
      model_type='unigram',
      vocab_size=vocab_size,
      character_coverage=character_coverage,
      required_chars=_ASCII,
      pad_id=PAD_ID,
      eos_id=EOS_ID,
      unk_id=UNK_ID,
      bos_id=-1,
      num_threads=1,  # more threads sum in another order: another file
      max_sentence_length=100_000,
      minloglevel=2,
    )
  except RuntimeError as error:
    raise ValueError(
      f'Cannot train a vocabulary of {vocab_size} pieces: {error}'
    ) from error
  with records.atomic_writer(path, binary=True) as file:
    file.write(model.getvalue())


def _sentinel_pieces(extra_ids: int) -> bytes:
  """The sentinels as serialised protocol buffer, to append to a model file.

  `ModelProto.pieces` is repeated field 1, so further pieces may follow at the
  end of the file. Written by hand, since this is all that a dependency on
  protobuf would be for.
  """
  result = bytearray()
  for index in reversed(range(extra_ids)):
    piece = f'▁<extra_id_{index}>'.encode()
    message = (
      bytes([0x0A, len(piece)])  # field 1: the piece
      + piece
      + b'\x15'  # field 2: its score, a float
      + struct.pack('<f', 0.0)
      + bytes([0x18, _USER_DEFINED])  # field 3: its type
    )
    result += bytes([0x0A, len(message)]) + message
  return bytes(result)
