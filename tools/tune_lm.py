"""`btr tune-lm`: LoRA fine-tuning of a decoder-only model that reads."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import os
import pathlib
import time

import optax
from rich import table as rich_table

from btr_jax import config as config_lib
from btr_jax.baselines.language_model import config as lm_config
from btr_jax.baselines.language_model import (
  examples,
  fine_tuning,
  lora_files,
  parameters,
)
from btr_jax.tools import common, read_with_lm
from btr_jax.tools import progress as progress_lib

_SHOWN_LOSSES = 10


def make_parser() -> common.Parser:
  """The arguments."""
  parser = common.Parser(
    'tune-lm',
    'Trains LoRA matrices of a decoder-only language model on questions with '
    'answers and passages. The defaults are those of the paper: rank 8, alpha '
    '32, dropout 0.05, every matrix of a layer, five passages.',
    'btr tune-lm --model SmolLM2-135M-Instruct.Q4_1.gguf '
    '--questions train.jsonl --steps 500 --output adapter',
  )
  read_with_lm.add_reader_arguments(parser)
  paper = lm_config.PAPER_LORA
  add = parser.add_argument
  add('--split', default='train', help='of the Factbook (train)')
  add('--steps', type=common.positive, default=500, help='of training (500)')
  add(
    '--learning-rate',
    type=float,
    default=2e-4,
    help='of AdamW, after a warmup down to 0 by a cosine (2e-4)',
  )
  add('--rank', type=common.positive, default=paper.rank, help='(%(default)s)')
  add('--alpha', type=float, default=paper.alpha, help='(%(default)s)')
  add('--dropout', type=float, default=paper.dropout_rate, help='(%(default)s)')
  add(
    '--remat',
    choices=config_lib.REMATS,
    default='none',
    help='what layers compute again to save memory (none)',
  )
  add('--output', required=True, help='folder to make, in the format of peft')
  return parser


def main(argv: Sequence[str]) -> int:
  """Runs the command; see `--help`."""
  arguments = make_parser().parse_args(argv)
  if arguments.lora:
    raise common.UserError(
      f'--lora {arguments.lora} is for reading; tune-lm begins anew.'
    )
  output = pathlib.Path(arguments.output)
  if output.exists():
    raise common.UserError(f'--output {output} exists; choose another folder.')
  if not arguments.learning_rate > 0:
    raise common.UserError(
      f'--learning-rate is {arguments.learning_rate}; expected above 0.'
    )
  lora = lm_config.LoraConfig(
    arguments.rank, arguments.alpha, arguments.dropout
  )
  records = read_with_lm.load_records(arguments, arguments.split)
  reader = read_with_lm.load_reader(arguments)
  made = [examples.make(reader, record) for record in records]
  kept = [example for example in made if example is not None]
  common.say(
    f'{len(kept)} of {len(made)} questions have an answer of at most '
    f'{arguments.answer_length} tokens'
  )
  schedule = optax.warmup_cosine_decay_schedule(
    0.0,
    arguments.learning_rate,
    min(arguments.steps // 10, 100),
    arguments.steps,
  )
  start = time.perf_counter()
  with progress_lib.Progress('tune-lm') as progress:
    tuned = fine_tuning.fit(
      dataclasses.replace(reader.config, remat=arguments.remat),
      reader.params,
      lora,
      examples.batches(
        kept,
        batch_size=arguments.batch,
        answer_length=arguments.answer_length,
        seed=arguments.seed,
      ),
      optimizer=optax.adamw(schedule, weight_decay=0.0),
      num_steps=arguments.steps,
      seed=arguments.seed,
      progress=lambda done, total, loss: progress(done, total),
    )
  lora_files.save(output, tuned.updates, lora)
  ends = [
    sum(part) / len(part)
    for part in (tuned.losses[:_SHOWN_LOSSES], tuned.losses[-_SHOWN_LOSSES:])
  ]
  record = {
    'command': 'tune-lm',
    'model': os.path.basename(os.path.normpath(arguments.model)),
    'output': str(output),
    'num_examples': len(kept),
    'steps': arguments.steps,
    'batch_size': arguments.batch,
    'learning_rate': arguments.learning_rate,
    'lora': dataclasses.asdict(lora),
    'lora_bytes': parameters.num_bytes(tuned.updates),
    'first_loss': ends[0],
    'last_loss': ends[1],
    'seconds': time.perf_counter() - start,
  }
  shown = rich_table.Table(title=f'LoRA of {record["model"]}')
  shown.add_column('')
  shown.add_column('', justify='right')
  shown.add_row('examples', f'{len(kept):,}')
  shown.add_row('steps', f'{arguments.steps:,}')
  shown.add_row(f'loss, first {_SHOWN_LOSSES} steps', f'{ends[0]:.3f}')
  shown.add_row(f'loss, last {_SHOWN_LOSSES} steps', f'{ends[1]:.3f}')
  shown.add_row('MB of LoRA matrices', f'{record["lora_bytes"] / 1e6:.2f}')
  common.console().print(shown)
  common.print_json(record)
  return common.EXIT_OK
