"""What was tried for speed and not kept; writes speed_options.json.

python tools/measure_speed_options.py OUTPUT

* attention: jax.nn.dot_product_attention in a layer of the encoder (base).
"""

import json
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from btr_jax.evaluation import environment


def by_turns(calls, repeats=5):
  """Median CPU seconds of each call; all take turns."""
  for call in calls.values():
    jax.block_until_ready(call())
  times = {name: [] for name in calls}
  for _ in range(repeats):
    for name, call in calls.items():
      start = time.process_time()
      jax.block_until_ready(call())
      times[name].append(time.process_time() - start)
  return {
    name: {'median': statistics.median(t), 'least': min(t), 'most': max(t)}
    for name, t in times.items()
  }


def attention():
  """Four passages of 160 tokens, 12 heads of 64: projections are left out."""
  rng = np.random.default_rng(0)
  queries, keys, values = (
    jnp.asarray(rng.standard_normal((4, 160, 768)), jnp.float32)
    for _ in range(3)
  )
  bias = jnp.asarray(rng.standard_normal((4, 12, 160, 160)), jnp.float32)

  def split(states):
    return states.reshape(4, 160, 12, 64)

  @jax.jit
  def ours(queries, keys, values, bias):
    q, k, v = (split(x).transpose(0, 2, 1, 3) for x in (queries, keys, values))
    weights = jax.nn.softmax(jnp.einsum('bhqd,bhkd->bhqk', q, k) + bias)
    mixed = jnp.einsum('bhqk,bhkd->bhqd', weights, v)
    return mixed.transpose(0, 2, 1, 3).reshape(4, 160, 768)

  @jax.jit
  def theirs(queries, keys, values, bias):
    return jax.nn.dot_product_attention(
      split(queries), split(keys), split(values), bias=bias, scale=1.0
    ).reshape(4, 160, 768)

  arguments = queries, keys, values, bias
  difference = jnp.abs(ours(*arguments) - theirs(*arguments)).max()
  seconds = by_turns(
    {
      'ours': lambda: ours(*arguments),
      'dot_product_attention': lambda: theirs(*arguments),
    },
    repeats=40,
  )
  return {'cpu_seconds': seconds, 'largest_difference': float(difference)}


def main():
  record = {
    'command': ' '.join(['python', *sys.argv]),
    'attention': attention(),
    'environment': environment.environment(),
  }
  with open(sys.argv[1], 'w') as file:
    json.dump(record, file, indent=1)
  print(json.dumps(record['attention']))


if __name__ == '__main__':
  main()
