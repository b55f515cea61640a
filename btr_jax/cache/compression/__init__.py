"""Offline compression of a cache: shared and merged vectors."""

from btr_jax.cache.compression.compressor import compress
from btr_jax.cache.compression.format import (
  CompressedManifest,
  Settings,
  is_compressed,
  read_manifest,
)
from btr_jax.cache.compression.stop_words import stop_ids

__all__ = [
  'CompressedManifest',
  'Settings',
  'compress',
  'is_compressed',
  'read_manifest',
  'stop_ids',
]
