"""The words for array axes, and how logical axes map onto the device mesh.

The names are T5X's (`t5x/partitioning.py`), so that its rules, checkpoints and
Adafactor know them; added here are `passages`, `bits` and `rank`.
"""

from __future__ import annotations

BATCH = 'batch'
PASSAGES = 'passages'
LENGTH = 'length'
EMBED = 'embed'
HEADS = 'heads'
KV = 'kv'
JOINED_KV = 'joined_kv'
MLP = 'mlp'
VOCAB = 'vocab'
RELPOS_BUCKETS = 'relpos_buckets'
BITS = 'bits'
RANK = 'rank'

MESH_AXES = ('data', 'model')

# One-dimensional partitioning of T5X: activations by example, matrices by
# their wide side. What is not named here is replicated.
LOGICAL_AXIS_RULES = (
  (BATCH, 'data'),
  (PASSAGES, None),
  (LENGTH, None),
  (EMBED, None),
  (HEADS, 'model'),
  (KV, None),
  (JOINED_KV, 'model'),
  (MLP, 'model'),
  (VOCAB, 'model'),
  (RELPOS_BUCKETS, None),
  (BITS, None),
  (RANK, None),
)
