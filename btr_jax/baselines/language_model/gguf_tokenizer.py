"""The tokenizer that a GGUF file carries in its metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from btr_jax.baselines.language_model import tokenizer as tokenizer_lib
from btr_jax.interop.checkpoint import ConversionError

_PREFIX = 'tokenizer.ggml.'
# Types of tokens, as llama.cpp numbers them.
_NORMAL = 1
_CONTROL = 3
_USER_DEFINED = 4
# SentencePiece's blank.
_BLANK = '\u2581'
# How Llama 3 splits text into words; a fact of its tokenizer.
_LLAMA3_WORDS = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
  r' ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)


def from_metadata(
  metadata: Mapping[str, Any], source: str
) -> tokenizer_lib.Tokenizer:
  """Builds the tokenizer.

  Args:
    metadata: of a GGUF file.
    source: the file, for the error.

  Returns:
    The tokenizer, with its beginning and end of text.

  Raises:
    ConversionError: a kind of tokenizer that is not known here, or a key is
      missing.
    ValueError: the package tokenizers is not installed.
  """
  tokenizers = tokenizer_lib.import_tokenizers()
  values = {
    key.removeprefix(_PREFIX): value
    for key, value in metadata.items()
    if key.startswith(_PREFIX)
  }
  kind = values.get('model')
  try:
    if kind == 'gpt2':
      inner = _byte_level(tokenizers, values, source)
    elif kind == 'llama':
      inner = _sentence_piece(tokenizers, values)
    else:
      raise ConversionError(
        f'{source} has a tokenizer of the kind {kind!r}; expected gpt2 '
        '(byte-level BPE) or llama (SentencePiece).'
      )
    _add_special(tokenizers, inner, values)
    end_ids = [values['eos_token_id']]
  except KeyError as error:
    raise ConversionError(
      f'{source} lacks the key {_PREFIX}{error.args[0]}.'
    ) from error
  end_ids += [
    values[key] for key in ('eot_token_id', 'eom_token_id') if key in values
  ]
  # llama.cpp adds it unless told not to, by the kind of tokenizer.
  begins = []
  if values.get('add_bos_token', kind == 'llama'):
    begins = [values['bos_token_id']] if 'bos_token_id' in values else []
  return tokenizer_lib.Tokenizer(
    inner,
    prefix=begins,
    end_ids=list(dict.fromkeys(end_ids)),
    chat_template=metadata.get('tokenizer.chat_template', ''),
  )


def _add_special(tokenizers, inner, values):
  tokens = values['tokens']
  types = values.get('token_type', [_NORMAL] * len(tokens))
  for token, kind in zip(tokens, types, strict=True):
    if kind in (_CONTROL, _USER_DEFINED):
      special = kind == _CONTROL
      added = tokenizers.AddedToken(token, special=special, normalized=False)
      # They have their ids already, so the vocabulary does not grow.
      (inner.add_special_tokens if special else inner.add_tokens)([added])


def _byte_level(tokenizers, values, source):
  """GPT-2's BPE over bytes; `pre` names how text is split before it."""
  splits = tokenizers.pre_tokenizers
  split = values.get('pre', 'default')
  if split in ('default', 'gpt-2', 'gpt2'):
    before = splits.ByteLevel(add_prefix_space=False)
  elif split == 'smollm':
    before = splits.Sequence(
      [
        splits.Digits(individual_digits=True),
        splits.ByteLevel(add_prefix_space=False),
      ]
    )
  elif split == 'llama-bpe':
    words = tokenizers.Regex(_LLAMA3_WORDS)
    before = splits.Sequence(
      [
        splits.Split(words, 'isolated'),
        splits.ByteLevel(add_prefix_space=False, use_regex=False),
      ]
    )
  else:
    raise ConversionError(
      f'{source} splits text by {split!r} ({_PREFIX}pre); expected default, '
      'gpt-2, smollm or llama-bpe.'
    )
  inner = tokenizers.Tokenizer(
    tokenizers.models.BPE(
      vocab={token: i for i, token in enumerate(values['tokens'])},
      merges=[tuple(merge.split(' ', 1)) for merge in values['merges']],
      # Llama 3 takes a word that is a token as it stands.
      ignore_merges=split == 'llama-bpe',
    )
  )
  inner.pre_tokenizer = before
  inner.decoder = tokenizers.decoders.ByteLevel()
  return inner


def _sentence_piece(tokenizers, values):
  """SentencePiece's BPE: blanks are letters, unknown ones fall to bytes."""
  tokens = values['tokens']
  inner = tokenizers.Tokenizer(
    tokenizers.models.BPE(
      vocab={token: i for i, token in enumerate(tokens)},
      merges=_merges(tokens, values['scores']),
      unk_token=tokens[values.get('unknown_token_id', 0)],
      fuse_unk=True,
      byte_fallback=True,
    )
  )
  normalizers = [tokenizers.normalizers.Replace(' ', _BLANK)]
  decoders = [
    tokenizers.decoders.Replace(_BLANK, ' '),
    tokenizers.decoders.ByteFallback(),
    tokenizers.decoders.Fuse(),
  ]
  if values.get('add_space_prefix', True):
    normalizers.insert(0, tokenizers.normalizers.Prepend(_BLANK))
    decoders.append(tokenizers.decoders.Strip(' ', 1, 0))
  inner.normalizer = tokenizers.normalizers.Sequence(normalizers)
  inner.decoder = tokenizers.decoders.Sequence(decoders)
  return inner


def _merges(
  tokens: Sequence[str], scores: Sequence[float]
) -> list[tuple[str, str]]:
  """Pairs to merge, best first.

  SentencePiece joins the neighbours whose union scores best; so every way to
  split a token into two others is a merge with the score of that token.
  """
  ids = {token: i for i, token in enumerate(tokens)}
  found = []
  for token, score in zip(tokens, scores, strict=True):
    for cut in range(1, len(token)):
      left, right = token[:cut], token[cut:]
      if left in ids and right in ids:
        found.append((-score, ids[left], ids[right], (left, right)))
  return [pair for *_, pair in sorted(found)]
