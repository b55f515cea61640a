"""`btr read-with-lm`: a decoder-only model answers from the passages."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import os
import pathlib
import time
from typing import Any

from rich import table as rich_table

from btr_jax import config as config_lib
from btr_jax.baselines.language_model import lora_files, prompt
from btr_jax.baselines.language_model import reader as reader_lib
from btr_jax.data import records as records_lib
from btr_jax.data.benchmarks import table as benchmarks
from btr_jax.evaluation import environment, evaluator, task_metrics
from btr_jax.retrieval import recall
from btr_jax.tools import common, corpora, questions
from btr_jax.tools import progress as progress_lib

GGUF = '.gguf'


def add_reader_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds what `load_reader` and `load_records` read."""
  add = parser.add_argument
  add(
    '--model',
    required=True,
    help='a GGUF file, or a folder with config.json, safetensors and '
    'tokenizer.json, of the Llama family',
  )
  add('--lora', help='a folder of LoRA matrices, as peft or tune-lm writes it')
  add(
    '--dtype',
    choices=config_lib.DTYPES,
    default='float32',
    help='of parameters and activations (float32)',
  )
  add(
    '--style',
    choices=prompt.STYLES,
    help="of the prompt; what the model's chat template shows by default",
  )
  add('--passages', type=common.positive, default=5, help='read at most (5)')
  add(
    '--passage-length',
    type=common.positive,
    default=prompt.DEFAULT.passage_length,
    help='tokens of a passage that are read (%(default)s)',
  )
  add(
    '--answer-length',
    type=common.positive,
    default=reader_lib.DEFAULT_ANSWER.answer_length,
    help='tokens of an answer at most (%(default)s)',
  )
  add('--batch', type=common.positive, default=4, help='questions at once (4)')
  add(
    '--questions',
    help='questions with passages in the format of DPR, or with --task in a '
    'format of that task; the Factbook by default',
  )
  questions.add_task_arguments(parser, required=False)
  add('--corpus', help='of --task, where passages are named by id')
  add(
    '--build',
    action='store_true',
    help='prepare the Factbook if it is not there',
  )
  add('--limit', type=common.positive, help='questions drawn; all by default')
  add('--seed', type=int, default=0, help='of the draw (0)')


def load_reader(
  arguments: argparse.Namespace,
) -> reader_lib.LanguageModelReader:
  """The model that the arguments name, with its LoRA matrices merged in.

  Raises:
    UserError: there is no such file or folder.
    ConversionError: it is no model that can be read; says why.
  """
  path = pathlib.Path(arguments.model)
  if not path.exists():
    raise common.UserError(
      f'--model {path}: there is no such file or folder. Expected a GGUF file '
      'or a folder that transformers writes, of the Llama family.'
    )
  make = reader_lib.LanguageModelReader.from_folder
  if path.suffix == GGUF:
    make = reader_lib.LanguageModelReader.from_gguf
  reader = make(
    path,
    arguments.dtype,
    prompt=prompt.PromptConfig(
      arguments.passages, arguments.passage_length, arguments.style
    ),
    answer=reader_lib.AnswerConfig(arguments.answer_length, arguments.batch),
  )
  if arguments.lora:
    reader = reader.with_lora(*lora_files.load(arguments.lora, reader.config))
  return reader


def load_records(
  arguments: argparse.Namespace, split: str
) -> list[records_lib.Record]:
  """The questions that the arguments name, drawn by --limit and --seed."""
  if arguments.task:
    found, _ = questions.load(arguments)
  else:
    found = corpora.load_questions(
      arguments.questions, split, build=arguments.build
    )
  (chosen,) = evaluator.sample_questions(
    len(found), arguments.limit, [arguments.seed]
  )
  return [found[i] for i in chosen]


def make_parser() -> common.Parser:
  """The arguments."""
  parser = common.Parser(
    'read-with-lm',
    'Answers questions with a decoder-only language model that reads the '
    'retrieved passages in its prompt, greedily, and scores the answers.',
    'btr read-with-lm --model SmolLM2-135M-Instruct.Q4_1.gguf '
    '--questions nq.jsonl.gz --limit 100 --output record.json',
  )
  add_reader_arguments(parser)
  parser.add_argument('--split', default='test', help='of the Factbook (test)')
  parser.add_argument('--output', help='write the JSON record to this file')
  parser.add_argument('--answers', help='write the answers as JSON lines')
  return parser


def _scores(
  answers: Sequence[str],
  asked: Sequence[records_lib.Record],
  metric: task_metrics.TaskMetric,
) -> dict[str, float]:
  """The metric's values, and how many answers hold a right one somewhere.

  Models that were never tuned to short answers write sentences, which exact
  match counts as wrong.
  """
  scores = dict(metric.score(answers, asked))
  held = [
    recall.has_answer(record.answers, answer)
    for record, answer in zip(asked, answers, strict=True)
  ]
  return {**scores, 'holds_answer': 100.0 * sum(held) / len(held)}


def main(argv: Sequence[str]) -> int:
  """Runs the command; see `--help`."""
  arguments = make_parser().parse_args(argv)
  metric = task_metrics.SQUAD
  if arguments.task:
    metric = task_metrics.metric(benchmarks.benchmark(arguments.task).metric)
  asked = load_records(arguments, arguments.split)
  reader = load_reader(arguments)
  passages = [[c.passage for c in record.contexts] for record in asked]
  start = time.perf_counter(), time.process_time()
  with progress_lib.Progress('read-with-lm') as progress:
    answers = reader.answer([r.question for r in asked], passages, progress)
  seconds = time.perf_counter() - start[0]
  cpu_seconds = time.process_time() - start[1]
  record: dict[str, Any] = {
    'command': 'read-with-lm',
    'model': os.path.basename(os.path.normpath(arguments.model)),
    'lora': arguments.lora,
    'dtype': arguments.dtype,
    'style': reader.prompt.style,
    'num_passages': arguments.passages,
    'passage_length': arguments.passage_length,
    'answer_length': arguments.answer_length,
    'batch_size': arguments.batch,
    'questions': os.path.basename(arguments.questions or 'factbook'),
    'task': arguments.task,
    'num_questions': len(asked),
    'seed': arguments.seed,
    'scores': _scores(answers, asked, metric),
    'seconds_with_compilation': seconds,
    'cpu_seconds_with_compilation': cpu_seconds,
    'model_bytes': reader.model_bytes,
    'stored_bytes': reader.stored_bytes,
    'environment': environment.environment(),
  }
  if arguments.answers:
    records_lib.write_json_lines(
      arguments.answers,
      (
        {'id': r.id, 'question': r.question, 'answer': a, 'gold': r.answers}
        for r, a in zip(asked, answers, strict=True)
      ),
    )
  if arguments.output:
    records_lib.write_json(arguments.output, record)
    common.say(f'record written to {arguments.output}')
  shown = rich_table.Table(title=f'{record["model"]}: {record["questions"]}')
  shown.add_column('')
  shown.add_column('', justify='right')
  shown.add_row('questions', f'{len(asked):,}')
  for name, value in record['scores'].items():
    shown.add_row(name, f'{value:.1f}')
  shown.add_row('seconds, compilation included', f'{seconds:.1f}')
  shown.add_row('MB of parameters', f'{reader.model_bytes / 1e6:,.1f}')
  shown.add_row('MB of weights on disk', f'{reader.stored_bytes / 1e6:,.1f}')
  common.console().print(shown)
  common.print_json(record)
  return common.EXIT_OK
