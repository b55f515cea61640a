"""Whether cached bits choose passages better than BM25's order does.

python tools/measure_reranking.py READER QUESTIONS OUTPUT [COUNT]

The lower layers know the question as well as the passages, so passages may be
ordered by how well their states fit the question's (the late interaction of
ColBERT, Khattab and Zaharia 2020: for each token of the question its nearest
token of the passage), and only the best be read. Nothing is trained for it.
States of passages are those that the bits stand for. QUESTIONS are a prepared
split of validation.
"""

import dataclasses
import json
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from btr_jax.data import encoding, prompts, records
from btr_jax.evaluation import answer_metrics, environment
from btr_jax.models import reader_files

CHOICES = ((20, 8), (8, 4), (8, 2))
ORDERS = ('bm25', 'bits', 'both')
BATCH = 4


def _unit(states, mask):
  """Of length one, without what all tokens share; padding is zero."""
  count = jnp.maximum(mask.sum(), 1.0)
  mean = (states * mask).sum((0, 1), keepdims=True) / count
  states = (states - mean) * mask
  norm = jnp.linalg.norm(states, axis=-1, keepdims=True)
  return states / jnp.maximum(norm, 1e-6)


def _fit(module, question_tokens, passage_tokens):
  """[batch, passages]: the mean over the question's tokens of the nearest."""
  batch, passages, length = passage_tokens.shape
  flat = passage_tokens.reshape(-1, length)
  code = module.codec.encode(
    module.passage_states(flat), flat, module.encoder.split_norm_scale()
  )
  kept = module.codec.decode(code, flat, module.encoder.split_norm_scale())
  kept = _unit(kept, (flat != 0)[..., None])
  asked = question_tokens != 0
  question = _unit(module.passage_states(question_tokens), asked[..., None])
  nearest = jnp.einsum(
    'bqd,bpkd->bpqk', question, kept.reshape(batch, passages, length, -1)
  ).max(-1)
  return nearest.sum(-1) / jnp.maximum(asked.sum(-1), 1)[:, None]


def order(name, fit):
  """The passages of a question, best first, by one of ORDERS."""
  place = np.arange(len(fit))
  rank = np.argsort(np.argsort(-fit, kind='stable'), kind='stable')
  by = {'bm25': place, 'bits': rank, 'both': place + rank}[name]
  return np.argsort(by, kind='stable')


def measure(reader, questions, found, read):
  """Exact match and recall by how `read` of `found` passages are chosen."""
  score = jax.jit(
    lambda params, q, p: reader.model.module.apply(
      reader.model.variables(params), q, p, method=_fit
    )
  )
  answer = jax.jit(reader.model.predict_batch)
  limits = dataclasses.replace(reader.limits, num_passages=found)
  answers, holding = {}, {}
  seconds = 0.0
  for start in range(0, len(questions), BATCH):
    few = questions[start : start + BATCH]
    batch = encoding.make_record_batch(reader.vocabulary, few, limits)
    begin = time.process_time()
    fit = np.asarray(
      score(reader.params, batch['question_tokens'], batch['passage_tokens'])
    )
    seconds += (time.process_time() - begin) * (start > 0)
    for name in ORDERS:
      chosen = np.stack([order(name, row)[:read] for row in fit])
      tokens = np.take_along_axis(
        batch['passage_tokens'], chosen[..., None], axis=1
      )
      ids = np.asarray(
        answer(reader.params, {**batch, 'passage_tokens': tokens})
      )
      answers.setdefault(name, []).extend(
        prompts.parse_answer(reader.vocabulary.decode(row)) for row in ids
      )
      holding.setdefault(name, []).extend(
        any(record.contexts[i].has_answer for i in row)
        for record, row in zip(few, chosen, strict=True)
      )
  return {
    'found': found,
    'read': read,
    'scoring_cpu_seconds_with_lower_layers': seconds / len(questions),
    'orders': {
      name: {
        'recall': 100 * float(np.mean(holding[name])),
        'em': 100
        * float(
          np.mean(
            [
              answer_metrics.exact_match(given, record.answers)
              for given, record in zip(answers[name], questions, strict=True)
            ]
          )
        ),
      }
      for name in answers
    },
  }


def main():
  folder, split, output, *count = sys.argv[1:]
  reader = reader_files.load_reader(folder, mode='binary')
  found = records.read_records(split)
  drawn = np.random.default_rng(1).permutation(len(found))
  questions = [found[i] for i in drawn[: int(count[0]) if count else 300]]
  rows = []
  for choice in CHOICES:
    rows.append(measure(reader, questions, *choice))
    print(json.dumps(rows[-1]), flush=True)
  record = {
    'command': ' '.join(['python', *sys.argv]),
    'questions': len(questions),
    'rows': rows,
    'environment': environment.environment(),
  }
  with open(output, 'w') as file:
    json.dump(record, file, indent=1)


if __name__ == '__main__':
  main()
