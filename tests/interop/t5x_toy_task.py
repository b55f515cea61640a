"""The task `t5x_toy`, for programs that tests start: TASK_MODULE names it.

It reads <split>.jsonl and vocabulary.model in $T5X_TOY_FOLDER.
"""

import functools
import os

import seqio

from btr_jax.tasks import factbook, preprocessors, sources

_FOLDER = os.environ['T5X_TOY_FOLDER']
_VOCABULARY = seqio.SentencePieceVocabulary(
  os.path.join(_FOLDER, 'vocabulary.model'), extra_ids=100
)

seqio.TaskRegistry.add(
  't5x_toy',
  source=sources.RecordSource(
    {
      split: functools.partial(os.path.join, _FOLDER, f'{split}.jsonl')
      for split in ('train', 'validation', 'test')
    }
  ),
  preprocessors=[
    preprocessors.choose_passages,
    preprocessors.choose_answer,
    preprocessors.tokenize,
  ],
  output_features={
    'inputs': seqio.Feature(_VOCABULARY, add_eos=False),
    'passages': seqio.Feature(_VOCABULARY, add_eos=False, rank=2),
    'targets': seqio.Feature(_VOCABULARY),
  },
  postprocess_fn=factbook.postprocess,
  metric_fns=[factbook.answer_scores],
  shuffle_buffer_size=None,
)
