"""The cache of token bits: planned, resumable, verified, memory-mapped.

The functions `plan.plan`, `verify.verify` and `builder.build` stay in their
modules, whose names they would hide here.
"""

from btr_jax.cache.errors import (
  CacheCorruptError,
  CacheIncompleteError,
  CacheLockedError,
  CacheMismatchError,
  CacheWriteError,
)
from btr_jax.cache.manifest import Manifest, read_manifest
from btr_jax.cache.plan import CachePlan, Share
from btr_jax.cache.report import storage_report
from btr_jax.cache.store import CacheStore, PassageRows
from btr_jax.cache.writer import CacheWriter

__all__ = [
  'CacheCorruptError',
  'CacheIncompleteError',
  'CacheLockedError',
  'CacheMismatchError',
  'CachePlan',
  'CacheStore',
  'CacheWriteError',
  'CacheWriter',
  'Manifest',
  'PassageRows',
  'Share',
  'read_manifest',
  'storage_report',
]
