"""The task `factbook`: questions about countries, with BM25 passages.

Its files are prepared on first use (under two minutes), in $BTR_DATA_DIR or
~/.cache/btr_jax. $BTR_FACTBOOK_VOCABULARY names another SentencePiece model
to tokenize with, for readers that do not have the Factbook's own.
"""

import functools
import os

from absl import logging
import seqio
import tensorflow as tf

from btr_jax.data import prompts
from btr_jax.data.factbook import prepare, questions
from btr_jax.evaluation import answer_metrics
from btr_jax.tasks import augmentation, preprocessors, sources, warmup

VOCABULARY_VARIABLE = 'BTR_FACTBOOK_VOCABULARY'
EXTRA_IDS = 100


@functools.cache
def _prepared(folder: str) -> prepare.FactbookFiles:
  return prepare.prepare(folder, progress=logging.info)


def files() -> prepare.FactbookFiles:
  """The prepared files; prepares them if they are not there."""
  return _prepared(prepare.default_folder())


class FactbookVocabulary(seqio.SentencePieceVocabulary):
  """Finds its model file when first used, so that importing is cheap."""

  def __init__(self):
    super().__init__('', extra_ids=EXTRA_IDS)

  @property
  def sentencepiece_model_file(self) -> str:
    if not self._sentencepiece_model_file:
      chosen = os.environ.get(VOCABULARY_VARIABLE) or files().vocabulary
      if not os.path.exists(chosen):
        raise FileNotFoundError(
          f'${VOCABULARY_VARIABLE} is {chosen}; there is no such file. Set it '
          'to a SentencePiece model, or unset it.'
        )
      self._sentencepiece_model_file = chosen
    return self._sentencepiece_model_file

  def _model_context(self):
    self.sentencepiece_model_file  # noqa: B018 (resolves the path)
    return super()._model_context()

  def __str__(self) -> str:
    return f'FactbookVocabulary({self._sentencepiece_model_file})'


def postprocess(decoded: str, example=None, is_target: bool = False):
  """Decoded text to an answer; for targets, to the list of all answers."""
  if is_target:
    return [tf.compat.as_text(answer) for answer in example['answers']]
  return prompts.parse_answer(decoded)


def answer_scores(
  targets: list[list[str]], predictions: list[str]
) -> dict[str, float]:
  """Exact match and F1 in percent, the best over all answers of a question."""
  pairs = list(zip(predictions, targets, strict=True))
  count = max(len(pairs), 1)
  return {
    'exact_match': 100
    * sum(answer_metrics.exact_match(p, t) for p, t in pairs)
    / count,
    'f1': 100 * sum(answer_metrics.f1(p, t) for p, t in pairs) / count,
  }


_VOCABULARY = FactbookVocabulary()


def _register(name, *rewriting):
  """The task, with further preprocessors once the passages are chosen."""
  seqio.TaskRegistry.add(
    name,
    source=sources.RecordSource(
      {
        split: functools.partial(lambda name: files().split(name), split)
        for split in questions.SPLITS
      }
    ),
    preprocessors=[
      preprocessors.choose_passages,
      *rewriting,
      preprocessors.choose_answer,
      preprocessors.tokenize,
    ],
    output_features={
      'inputs': seqio.Feature(_VOCABULARY, add_eos=False),
      'passages': seqio.Feature(_VOCABULARY, add_eos=False, rank=2),
      'targets': seqio.Feature(_VOCABULARY, add_eos=True),
    },
    postprocess_fn=postprocess,
    metric_fns=[answer_scores],
    # The source permutes the whole file; a buffer would only add memory.
    shuffle_buffer_size=None,
  )


_register('factbook')
_register('factbook_warmup', warmup.warm_up)
_register('factbook_augmented', augmentation.augment)
