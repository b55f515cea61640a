"""`btr prepare-batches`: a task's examples as arrays for `sources.NpzSource`.

For machines without TensorFlow; and, with the codes of a reader, for training
the layers above the split without running those below it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import itertools
import json
import pathlib

import jax
import numpy as np

from btr_jax import config as config_lib
from btr_jax.data import records
from btr_jax.data import vocabulary as vocabulary_lib
from btr_jax.data.benchmarks import table, task_files
from btr_jax.models import reader_files
from btr_jax.tools import common, progress
from btr_jax.training import sources

# Passages that are encoded at once, and what their lengths are padded to.
ENCODED_TOGETHER = 256
LENGTH_STEP = 16
_VOCABULARY_FILE = 'vocabulary.model'


def make_parser() -> common.Parser:
  """The arguments."""
  parser = common.Parser(
    'prepare-batches',
    'Writes examples of a SeqIO task as arrays: OUTPUT/SPLIT.npz and the '
    'vocabulary. With --reader the passages are stored as its codes too, and '
    'a run with TRAIN_LOWER=False trains upper layers and decoder from them. '
    'Train with --gin_file=gin_configs/data/arrays.gin after the file of the '
    'size, and --gin.ARRAYS="\'OUTPUT\'".',
    'btr prepare-batches --task factbook_augmented --split train '
    '--examples 8000 --reader btr_jax/assets/factbook_tiny --output arrays',
  )
  add = parser.add_argument
  add('--task', required=True, help='name of the SeqIO task or mixture')
  add(
    '--task-module',
    help='module that registers it (btr_jax.tasks.NAME, up to the first "_")',
  )
  add('--split', default='train', help='train, validation or test (train)')
  add(
    '--questions',
    help='file of questions with passages, for the tasks of docs/tasks.md '
    '(`btr prepare-questions` and `btr retrieve` write such files)',
  )
  add(
    '--vocabulary',
    help='SentencePiece model, with --questions (that of --reader)',
  )
  add(
    '--extra-ids',
    type=int,
    default=100,
    help='sentinels behind the pieces of --vocabulary (100)',
  )
  add(
    '--examples',
    type=common.positive,
    required=True,
    help='how many; training examples go round and are drawn anew each time',
  )
  add('--seed', type=int, default=0, help='of order and random choices (0)')
  add('--reader', help='reader or family directory whose codes to store')
  add(
    '--codec',
    choices=config_lib.CODECS,
    help="which of a family's binary readers; float takes the decomposed one",
  )
  limits = config_lib.InputLimits()
  for name in ('question', 'passage', 'answer'):
    add(
      f'--{name}-length',
      type=common.positive,
      default=getattr(limits, f'{name}_length'),
      help='tokens (%(default)s)',
    )
  add(
    '--num-passages',
    type=common.positive,
    default=limits.num_passages,
    help='per question (%(default)s)',
  )
  add('--output', required=True, help='folder; other splits in it stay')
  return parser


def examples(
  source: sources.BatchSource,
  split: str,
  limits: config_lib.InputLimits,
  count: int,
  seed: int,
) -> dict[str, np.ndarray]:
  """The first examples of a source, one array per feature.

  Args:
    source: of batches.
    split: of it.
    limits: lengths.
    count: at most so many; other splits than `train` may have fewer.
    seed: of the order.

  Returns:
    Arrays [examples, ...].
  """
  # One by one: no example of a small task is left over.
  batches = source.batches(split, limits, 1, seed=seed)
  found = []
  with progress.Progress(f'examples of {split}') as tell:
    for batch in itertools.islice(batches, count):
      found.append(batch)
      tell(len(found), count)
  return {
    name: np.concatenate([batch[name] for batch in found]) for name in found[0]
  }


def codes(
  reader: reader_files.LoadedReader, passage_tokens: np.ndarray
) -> dict[str, np.ndarray]:
  """The codes of passages, each passage encoded once.

  Args:
    reader: in mode binary.
    passage_tokens: int [examples, passages, length].

  Returns:
    `passage_bits` and `passage_scale`, uint8 [examples, passages, length, n].
  """
  length = passage_tokens.shape[-1]
  rows, back = np.unique(
    passage_tokens.reshape(-1, length), axis=0, return_inverse=True
  )
  lengths = (rows != 0).sum(-1)
  order = np.argsort(lengths, kind='stable')
  layout = reader.model.codec_layout
  stored = {
    'bits': np.zeros(rows.shape + (layout.bits_bytes,), np.uint8),
    'scale': np.zeros(rows.shape + (layout.scale_bytes,), np.uint8),
  }
  encode = jax.jit(
    lambda params, tokens: reader.model.encode_passages(params, tokens)
  )
  with progress.Progress('codes of passages') as tell:
    for start in range(0, len(order), ENCODED_TOGETHER):
      chosen = order[start : start + ENCODED_TOGETHER]
      longest = max(1, int(lengths[chosen].max()))
      width = min(length, -(-longest // LENGTH_STEP) * LENGTH_STEP)
      tokens = np.zeros((ENCODED_TOGETHER, width), np.int32)
      tokens[: len(chosen)] = rows[chosen, :width]
      packed = encode(reader.params, tokens)
      for name, array in stored.items():
        array[chosen, :width] = np.asarray(packed[name])[: len(chosen)]
      tell(start + len(chosen), len(order))
  return {
    f'passage_{name}': array[back.reshape(-1)].reshape(
      passage_tokens.shape + array.shape[-1:]
    )
    for name, array in stored.items()
  }


def _check_codes_file(path: pathlib.Path, fingerprint: str | None) -> None:
  """Refuses to put splits with codes of different readers into one folder."""
  found = json.loads(path.read_text())['fingerprint'] if path.exists() else None
  others = [file.name for file in path.parent.glob('*.npz')]
  if others and found != fingerprint:
    raise common.UserError(
      f'{path.parent} already holds {", ".join(sorted(others))} with codes of '
      f'{found and found[:16]}; expected {fingerprint and fingerprint[:16]}. '
      'Name another --output, or remove that folder.'
    )


def _source(
  arguments: argparse.Namespace, reader: reader_files.LoadedReader | None
) -> sources.SeqioSource:
  """The task, and with --questions the file that it reads."""
  name = arguments.task
  known = name in table.BENCHMARKS
  module = arguments.task_module or (
    f'btr_jax.tasks.{name if known else name.split("_")[0]}'
  )
  if not arguments.questions:
    return sources.SeqioSource(name, module)
  if not known:
    raise common.UserError(
      f'--questions has no meaning for --task {name}; expected one of '
      f'{", ".join(table.BENCHMARKS)}.'
    )
  vocabulary, extra_ids = arguments.vocabulary, arguments.extra_ids
  if vocabulary is None and reader is not None:
    vocabulary = reader.vocabulary.path
    extra_ids = reader.vocabulary.num_extra_ids
  files = task_files.TaskFiles(
    name,
    questions={arguments.split: arguments.questions},
    vocabulary=vocabulary,
    extra_ids=extra_ids,
    num_passages=arguments.num_passages,
  )
  return sources.SeqioSource(name, module, files)


def _check_vocabulary(vocabulary, reader, folder):
  """Raises UserError unless all speak of the same ids."""
  others = []
  if reader is not None:
    others.append(('the reader', reader.vocabulary))
  there = folder / _VOCABULARY_FILE
  if there.is_file():
    extra_ids = vocabulary.num_extra_ids  # The folder does not keep them.
    others.append((there, vocabulary_lib.Vocabulary(str(there), extra_ids)))
  for name, other in others:
    if vocabulary.fingerprint != other.fingerprint:
      raise common.UserError(
        f'the examples are tokenized by {vocabulary.path} '
        f'({vocabulary.vocab_size} ids), {name} has another vocabulary '
        f'({other.vocab_size} ids); expected the same one. Give the vocabulary '
        'of the reader, or another --output.'
      )


def main(argv: Sequence[str]) -> int:
  """Runs the command; see `--help`."""
  arguments = make_parser().parse_args(argv)
  if arguments.codec and not arguments.reader:
    raise common.UserError('--codec needs --reader; expected both or none.')
  reader = None
  if arguments.reader:
    reader = reader_files.load_reader(
      arguments.reader, mode='binary', codec=arguments.codec
    )
  limits = config_lib.InputLimits(
    arguments.question_length,
    arguments.passage_length,
    arguments.answer_length,
    arguments.num_passages,
  )
  source = _source(arguments, reader)
  folder = pathlib.Path(arguments.output)
  codes_file = folder / sources.CODES_FILE
  _check_codes_file(codes_file, reader and reader.fingerprint)
  vocabulary, extra_ids = source.vocabulary_file()
  _check_vocabulary(
    vocabulary_lib.Vocabulary(vocabulary, extra_ids), reader, folder
  )
  arrays = examples(
    source, arguments.split, limits, arguments.examples, arguments.seed
  )
  if reader is not None:
    arrays |= codes(reader, arrays['passage_tokens'])
  folder.mkdir(parents=True, exist_ok=True)
  reader_files.write_atomically(
    folder / _VOCABULARY_FILE, pathlib.Path(vocabulary).read_bytes()
  )
  if reader is not None:
    described = {
      'fingerprint': reader.fingerprint,
      'codec': reader.config.codec.kind,
      'reader': str(arguments.reader),
    }
    reader_files.write_atomically(
      codes_file, (json.dumps(described, indent=2) + '\n').encode()
    )
  path = folder / f'{arguments.split}.npz'
  with records.atomic_writer(path, binary=True) as file:
    np.savez(file, **arrays)
  count = len(arrays['question_tokens'])
  size = path.stat().st_size
  common.say(f'{path}: {count:,} examples, {size / 1e6:.1f} MB')
  common.print_json(
    {
      'command': 'prepare-batches',
      'task': arguments.task,
      'split': arguments.split,
      'examples': count,
      'extra_ids': extra_ids,
      'output': str(folder),
      'bytes': size,
      'codes': reader and reader.fingerprint,
    }
  )
  return common.EXIT_OK
