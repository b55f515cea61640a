"""`btr COMMAND ...`: one command for everything that the package does."""

from __future__ import annotations

from collections.abc import Sequence
import difflib
import importlib
import sys

from btr_jax import __version__
from btr_jax.tools import common

# Modules are imported only when asked for: `btr --help` must answer at once,
# and `train` alone needs TensorFlow.
COMMANDS = {
  'train': (
    'btr_jax.train',
    'train a reader: python -m btr_jax.train',
  ),
  'delta': (
    'btr_jax.tools.delta',
    'a reader as what it adds to another, and back',
  ),
  'grow-reader': (
    'btr_jax.tools.grow_reader',
    'a deeper reader that begins as the shallower one',
  ),
  'plan-train': (
    'btr_jax.tools.plan_train',
    'memory and operations of a training run, before it runs',
  ),
  'prepare-corpus': (
    'btr_jax.tools.prepare_corpus',
    'make passages of your own files, or the built-in corpus',
  ),
  'retrieve': (
    'btr_jax.tools.retrieve',
    'find passages for a file of questions, with recall',
  ),
  'benchmark-retrieval': (
    'btr_jax.tools.benchmark_retrieval',
    'build and ask indexes, beside bm25s and faiss used directly',
  ),
  'prepare-questions': (
    'btr_jax.tools.prepare_questions',
    "a benchmark's files as records, and what is wrong in them",
  ),
  'prepare-batches': (
    'btr_jax.tools.prepare_batches',
    'examples of a task as arrays, with the codes of their passages',
  ),
  'fit-codec': (
    'btr_jax.tools.fit_codec',
    'a binary reader out of a decomposed one, without training',
  ),
  'study-codes': (
    'btr_jax.tools.study_codes',
    "what each code loses of a reader's states, by bytes per token",
  ),
  'study-training': (
    'btr_jax.tools.study_training',
    'what annealing, recovery, wiring and distillation are worth, trained',
  ),
  'benchmark-data': (
    'btr_jax.tools.benchmark_data',
    'examples per second of the input pipeline of training',
  ),
  'export-cache': (
    'btr_jax.tools.export_cache',
    'plan, build, verify, repair, append, merge, export caches',
  ),
  'measure-build': (
    'btr_jax.tools.measure_build',
    'speed, memory and disk of building caches, as a record',
  ),
  'compress-cache': (
    'btr_jax.tools.compress_cache',
    'share and merge the vectors of a cache',
  ),
  'benchmark-cache': (
    'btr_jax.tools.benchmark_cache',
    'look-up, opening, compression and storage of caches, measured',
  ),
  'inspect-cache': (
    'btr_jax.tools.inspect_cache',
    'what a cache holds, and its bytes per token',
  ),
  'ask': (
    'btr_jax.tools.ask',
    'answer a question from a corpus or a folder of documents',
  ),
  'evaluate': (
    'btr_jax.tools.evaluate',
    'scores of a task, questions per second, bytes per token',
  ),
  'read-with-lm': (
    'btr_jax.tools.read_with_lm',
    'answers of a decoder-only language model (Llama family)',
  ),
  'tune-lm': (
    'btr_jax.tools.tune_lm',
    'LoRA fine-tuning of such a model on questions with passages',
  ),
  'report': (
    'btr_jax.tools.report',
    "the paper's tables from real runs, resumable row by row",
  ),
  'benchmark': (
    'btr_jax.tools.benchmark',
    'speed, operations and memory over sizes, passages and batches',
  ),
  'benchmark-accelerator': (
    'btr_jax.tools.benchmark_accelerator',
    'the figures of base and large on a device lent for minutes',
  ),
  'convert': (
    'btr_jax.tools.convert_checkpoint',
    'checkpoints from and to Hugging Face, Atlas and T5X',
  ),
  'phrases': (
    'btr_jax.tools.phrases',
    'answers by phrase retrieval, without a reader: train, build, ask',
  ),
  'quantize-reader': (
    'btr_jax.tools.quantize_reader',
    'store the matrices of a reader in four or eight bits',
  ),
  'pack-family': (
    'btr_jax.tools.pack_family',
    'pack the readers of the three stages into one folder',
  ),
  'span-reader': (
    'btr_jax.tools.span_reader',
    "train and evaluate BTR in a reader of spans, of BERT's shape",
  ),
  'demo': (
    'btr_jax.tools.demo',
    'all of it on the World Factbook, with the reader that ships',
  ),
}


def usage() -> str:
  """The text of `btr --help`."""
  lines = [
    'usage: btr COMMAND [arguments]',
    '',
    'Binary token representations: read passages from one bit per dimension.',
    '',
    'commands:',
  ]
  lines += [f'  {name:<20} {text}' for name, (_, text) in COMMANDS.items()]
  lines += [
    '',
    'example:',
    '  btr ask --build "What is the capital of Peru?"',
    '',
    '`btr COMMAND --help` tells more.',
  ]
  return '\n'.join(lines)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a sub-command.

  Args:
    argv: the command and its arguments; None takes those of the process.

  Returns:
    Exit code: 0, or 2 for an error that the caller can put right.
  """
  argv = list(sys.argv[1:] if argv is None else argv)
  if not argv:
    print(usage(), file=sys.stderr)
    return common.EXIT_USER_ERROR
  command, *rest = argv
  if command in ('-h', '--help', 'help'):
    print(usage())
    return common.EXIT_OK
  if command == '--version':
    print(f'btr_jax {__version__}')
    return common.EXIT_OK
  if command not in COMMANDS:
    close = difflib.get_close_matches(command, COMMANDS, n=1, cutoff=0.4)
    hint = f'; did you mean {close[0]!r}?' if close else '.'
    return common.fail(
      common.UserError(
        f'unknown command {command!r}{hint} Commands: {", ".join(COMMANDS)}.'
      )
    )
  module = importlib.import_module(COMMANDS[command][0])
  return common.run(module.main, rest)


if __name__ == '__main__':
  sys.exit(main())
