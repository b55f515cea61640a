"""`btr fit-codec`: a decomposed reader answers from bits, without training."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

import numpy as np

from btr_jax import config as config_lib
from btr_jax.models import codec_fit, reader_files
from btr_jax.models import model as model_lib
from btr_jax.tools import common, corpora

_TOGETHER = 32


def make_parser() -> common.Parser:
  """The arguments."""
  parser = common.Parser(
    'fit-codec',
    'Gives a reader a residual codec whose tables and directions come from '
    'statistics of passages, so that it can answer from a cache of bits at '
    'once. The reader itself is not trained: what the code loses, the answers '
    'lose (btr study-codes --answers tells it; stage 3 wins some of it back).',
    'btr fit-codec my_family --bits 512 --bits-per-dim 4 --output reader_512',
  )
  add = parser.add_argument
  add('reader', help='reader, or family: its decomposed reader')
  add('--output', required=True, help='reader directory to write')
  add('--bits', type=common.positive, help='per token (one per dimension)')
  add(
    '--bits-per-dim',
    type=int,
    default=1,
    choices=config_lib.BITS_PER_DIM,
    help='bits of each direction that is kept (1)',
  )
  add(
    '--window',
    type=int,
    default=1,
    choices=config_lib.WINDOWS,
    help='neighbours on each side that join the prediction (1)',
  )
  add(
    '--scale-bits',
    type=int,
    default=8,
    choices=config_lib.SCALE_BITS,
    help="of the token's scale (8)",
  )
  add(
    '--prediction',
    default='both',
    choices=codec_fit.PREDICTIONS,
    help='how token ids predict (both)',
  )
  corpora.add_draw_arguments(parser, passages=4096)
  return parser


def main(argv: Sequence[str]) -> int:
  """Runs the command; see `--help`.

  Raises:
    UserError: an output that is there, or settings that do not fit.
  """
  arguments = make_parser().parse_args(argv)
  output = common.new_folder(arguments.output)
  codec = config_lib.CodecConfig(
    'residual',
    arguments.bits,
    arguments.scale_bits,
    arguments.bits_per_dim,
    arguments.window,
  )
  reader = reader_files.load_reader(arguments.reader, mode='decomposed')
  config = dataclasses.replace(reader.config, codec=codec)
  model = model_lib.BtrModel(config, reader.limits, stage=3)
  corpus = corpora.load_corpus(arguments.corpus)
  tokens = corpora.drawn_tokens(
    corpus,
    reader.vocabulary,
    min(arguments.passages, len(corpus.passages)),
    reader.limits.passage_length,
    arguments.seed,
  )
  # Whole batches: one shape, one program; padding is not counted.
  rows = -len(tokens) % _TOGETHER
  batches = np.pad(tokens, ((0, rows), (0, 0))).reshape(
    -1, _TOGETHER, tokens.shape[1]
  )
  common.say(f'statistics of {len(tokens):,} passages')
  params = model.fit_codec(reader.params, batches, arguments.prediction)
  reader_files.save_reader(
    output,
    config,
    reader.limits,
    params,
    reader.vocabulary.path,
    extra_ids=reader.vocabulary.num_extra_ids,
    provenance={
      **reader.provenance,
      'codec_fitted_without_training': {
        'passages': len(tokens),
        'prediction': arguments.prediction,
        'seed': arguments.seed,
      },
    },
  )
  layout = model.codec_layout
  size = layout.bits_bytes + layout.scale_bytes
  common.say(f'{output}: {size} bytes per token of bits and scale')
  common.print_json(
    {
      'command': 'fit-codec',
      'reader': str(output),
      'codec': dataclasses.asdict(codec),
      'bytes_per_token': size,
      'passages': len(tokens),
    }
  )
  return common.EXIT_OK
