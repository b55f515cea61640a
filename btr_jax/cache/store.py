"""Reads a cache: opens it, checks whose it is, looks passages up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import concurrent.futures
import dataclasses
import pathlib
import time
from typing import Any

from jaxtyping import Int32, Integer, UInt8
import numpy as np

from btr_jax.cache import arrays, checksums, flat, opening, shards
from btr_jax.cache import manifest as manifests
from btr_jax.cache.errors import CacheCorruptError, CacheIncompleteError
from btr_jax.cache.layout import CacheLayout

DEFAULT_CACHE_BYTES = 256 * 2**20
# Longer than copying a passage takes, shorter than a disk's answer.
DISK_NANOSECONDS = 40_000
clock = time.perf_counter_ns


@dataclasses.dataclass(frozen=True)
class PassageRows:
  """Passages as the reader wants them: padded on the right with 0."""

  token_ids: Int32[np.ndarray, '*batch length']
  bits: UInt8[np.ndarray, '*batch length bits_bytes']
  scale: UInt8[np.ndarray, '*batch length scale_bytes']


class _Shard:
  """The arrays of one shard; None where it has none.

  Bytes and memoryview rather than numpy: a slice costs a third, and slices
  are what the look-up of short passages spends its time on.
  """

  __slots__ = (
    'bits',
    'checksums',
    'lengths',
    'mapped',
    'rows',
    'scale',
    'starts',
    'token_ids',
  )


class CacheStore:
  """A finished cache, open for reading. Look-ups may come from any thread.

  What a look-up returns is what was written, or it raises: every passage is
  held against its checksum, in every look-up (`checksums` says what that
  finds). Caches from before there were checksums have the SHA-256 of a shard
  compared when it is first touched.
  """

  def __init__(
    self,
    path: pathlib.Path | str,
    manifest: Any,
    *,
    max_open_shards: int | None,
    cache_bytes: int,
    verify: bool,
  ):
    """Use `open`.

    Args:
      path: folder or URL.
      manifest: a Manifest; a compressed cache has one of its own kind, with
        `layout` and `fingerprints` like it.
      max_open_shards, cache_bytes, verify: as in `open`.
    """
    self.path = path
    self.manifest = manifest
    self._verify = verify
    self._files = shards.ShardFiles(path, manifest.layout, cache_bytes)
    if max_open_shards is None:
      max_open_shards = shards.default_open_shards(
        self.layout.num_shards, len(self.layout.arrays)
      )
    self._shards = shards.OpenShards(self._load, max_open_shards)
    self._checksums = self.layout.array('passage_checksums')
    self._prefetcher: concurrent.futures.ThreadPoolExecutor | None = None

  @classmethod
  def open(
    cls,
    path: str | pathlib.Path,
    expected: Mapping[str, str] | None = None,
    *,
    max_open_shards: int | None = None,
    cache_bytes: int = DEFAULT_CACHE_BYTES,
    verify: bool = True,
  ) -> CacheStore:
    """Opens a cache, compressed or not; no data is read.

    Args:
      path: its folder, or a URL of TensorStore's (gs://, s3://, http://,
        file://, ...), which is read through TensorStore.
      expected: fingerprints that it must have; those not named are not
        compared. None accepts any cache.
      max_open_shards: shards mapped at one time. None takes what the limit of
        open files allows.
      cache_bytes: what TensorStore may keep in memory of a remote cache.
      verify: False leaves the checksums out.

    Raises:
      FileNotFoundError: there is no cache.
      CacheIncompleteError: its build has not finished.
      CacheMismatchError: it belongs to another model, codec, tokenizer or
        corpus; lists field, expected and found.
      CacheCorruptError: the manifest is damaged, or a shard file is missing or
        has another size than the ledger says (of a remote cache that shows
        when the shard is read).
    """
    if not arrays.is_remote(path):
      path = pathlib.Path(path)
    options = {
      'max_open_shards': max_open_shards,
      'cache_bytes': cache_bytes,
      'verify': verify,
    }
    # Here, because it builds upon this module.
    from btr_jax.cache.compression import store as compressed

    if compressed.is_compressed(path):
      return compressed.CompressedStore.open_compressed(
        path, expected, **options
      )
    manifest = opening.read_manifest(path)
    if manifest.status != manifests.COMPLETE:
      raise CacheIncompleteError(
        f'The cache {path} is not finished. Start the same build again: it '
        'goes on where it stopped.'
      )
    opening.check_fingerprints(path, manifest.fingerprints, expected)
    opening.check_sizes(path, manifest)
    return cls(path, manifest, **options)

  @property
  def layout(self) -> CacheLayout:
    return self.manifest.layout

  @property
  def num_passages(self) -> int:
    return self.layout.num_passages

  def open_shards(self) -> None:
    """Opens every shard now, so that no look-up waits for it.

    Maps the files and checks their indexes; of a remote cache it fetches where
    passages start. No more than `max_open_shards` stay open.
    """
    for index in range(self.layout.num_shards):
      self._shards[index]

  def lengths(
    self, passage_ids: Integer[np.ndarray, '*batch'] | Sequence[Any]
  ) -> Int32[np.ndarray, '*batch']:
    """Tokens of each passage, 0 for id -1; IndexError as in lookup."""
    passage_ids = self._check_ids(passage_ids)
    found = np.zeros(passage_ids.size, np.int32)
    for slot, passage in enumerate(passage_ids.ravel().tolist()):
      if passage >= 0:
        shard, position = divmod(passage, self.layout.passages_per_shard)
        found[slot] = self._shards[shard].lengths[position]
    return found.reshape(passage_ids.shape)

  def lookup(
    self,
    passage_ids: Integer[np.ndarray, '*batch'] | Sequence[Any],
    passage_length: int,
  ) -> PassageRows:
    """Looks passages up: those of many questions in one call.

    Args:
      passage_ids: integers of any shape; -1 stands for an empty passage.
      passage_length: tokens to pad every passage to.

    Returns:
      PassageRows of passage_ids.shape + [passage_length, ...]: token_ids
      int32, bits and scale uint8 as the codec packed them, 0 where padded.

    Raises:
      IndexError: an id is not in the corpus; names it.
      ValueError: a passage is longer than passage_length; names it. Half a
        passage would be read without a word otherwise.
      CacheCorruptError: a passage is not what was written; names it.
    """
    passage_ids = self._check_ids(passage_ids)
    layout = self.layout
    count = passage_ids.size
    padded = checksums.padded_length(passage_length)
    flat_ids = passage_ids.ravel().tolist()
    located, stored = self._locate(flat_ids, passage_length)
    # Zeros only where something is left to pad: they are written to memory
    # like what is copied over them.
    full = sum(length for *_, length in located) == count * padded
    make = np.empty if full else np.zeros
    token_ids = make((count, padded), layout.token_dtype)
    bits = make((count, padded, layout.bits_bytes), np.uint8)
    scale = make((count, padded, layout.scale_bytes), np.uint8)
    if located:
      self._copy(flat_ids, located, token_ids, bits, scale)
    if count and self._verify and self._checksums is not None:
      found = checksums.of_padded(token_ids, bits, scale)
      wrong = np.flatnonzero(found != np.array(stored, np.uint64))
      if wrong.size:
        raise self._corrupt([flat_ids[slot] for slot in wrong])
    shape = (*passage_ids.shape, passage_length)
    token_ids = token_ids[:, :passage_length].astype(np.int32)
    return PassageRows(
      token_ids.reshape(shape),
      bits[:, :passage_length].reshape(*shape, layout.bits_bytes),
      scale[:, :passage_length].reshape(*shape, layout.scale_bytes),
    )

  def prefetch(
    self, passage_ids: Integer[np.ndarray, '*batch'] | Sequence[Any]
  ) -> concurrent.futures.Future[None]:
    """Fetches passages in the background, for a look-up that comes soon.

    Of a local cache the kernel reads the pages ahead; of a remote one
    TensorStore keeps at most `cache_bytes` of what it reads.

    Args:
      passage_ids: as in `lookup`; the next batch's.

    Returns:
      Done when all was asked for (local) or is in memory (remote). Nobody has
      to wait for it.

    Raises:
      IndexError: as in `lookup`.
    """
    wanted = self._check_ids(passage_ids).ravel().tolist()
    if self._prefetcher is None:
      self._prefetcher = concurrent.futures.ThreadPoolExecutor(
        1, 'cache-prefetch'
      )
    return self._prefetcher.submit(self._fetch, wanted)

  def _fetch(self, passage_ids: list[int]) -> None:
    self._advise_offsets(passage_ids)
    located = self._locate(passage_ids, self.layout.max_length)[0]
    self._advise_rows(located)
    waiting = [
      source.read(start, start + length)
      for _, shard, start, length in located
      if not shard.mapped
      for source in (shard.bits, shard.scale, shard.token_ids)
      if isinstance(source, shards.StoredRows)
    ]
    for future in waiting:
      future.result()

  def _copy(
    self,
    passage_ids: list[int],
    located: Sequence[tuple[int, Any, int, int]],
    token_ids: np.ndarray,
    bits: np.ndarray,
    scale: np.ndarray,
  ) -> None:
    """Copies the passages' bytes into arrays that are 0 where it is padded."""
    del passage_ids
    padded = token_ids.shape[1]
    ids_width, bits_width = token_ids.itemsize, bits.shape[-1]
    scale_width = scale.shape[-1]
    ids_out = memoryview(token_ids).cast('B')
    bits_out = memoryview(bits).cast('B')
    scale_out = memoryview(scale).cast('B') if scale_width else None
    later = []
    advised = False
    before = clock()
    for done, (slot, shard, start, length) in enumerate(located):
      to = slot * padded
      if not shard.mapped:
        later += [
          (bits_out, to, bits_width, shard.bits, start, length),
          (ids_out, to, ids_width, shard.token_ids, start, length),
        ]
        if scale_width:
          later.append((scale_out, to, scale_width, shard.scale, start, length))
        continue
      stop, end = start + length, to + length
      bits_out[to * bits_width : end * bits_width] = shard.bits[
        start * bits_width : stop * bits_width
      ]
      ids_out[to * ids_width : end * ids_width] = shard.token_ids[
        start * ids_width : stop * ids_width
      ]
      if scale_width:
        scale_out[to * scale_width : end * scale_width] = shard.scale[
          start * scale_width : stop * scale_width
        ]
      if not advised:
        now = clock()
        if now - before > DISK_NANOSECONDS:
          self._advise_rows(located[done + 1 :])
          advised = True
        before = now
    shards.copy_stored(later)

  def _locate(
    self, passage_ids: list[int], passage_length: int
  ) -> tuple[list[tuple[int, Any, int, int]], list[int]]:
    """Slot, shard, first row and length of passages with tokens; checksums."""
    located = []
    stored = [checksums.EMPTY_CHECKSUM] * len(passage_ids)
    per_shard = self.layout.passages_per_shard
    find = self._shards.find
    with_checksums = self._checksums is not None
    advised = False
    before = clock()
    for slot, passage in enumerate(passage_ids):
      if passage < 0:
        continue
      index, position = divmod(passage, per_shard)
      shard = find(index) or self._shards[index]
      start, length = shard.starts[position], shard.lengths[position]
      if with_checksums:
        stored[slot] = shard.checksums[position]
      if length > passage_length or start + length > shard.rows:
        self._refuse(passage, passage_length, start, length, shard.rows)
      if length:
        located.append((slot, shard, start, length))
      if not advised:
        now = clock()
        if now - before > DISK_NANOSECONDS:
          self._advise_offsets(passage_ids[slot + 1 :])
          advised = True
        before = now
    return located, stored

  def _refuse(
    self, passage: int, passage_length: int, start: int, length: int, rows: int
  ) -> None:
    """A passage that cannot be as written, or is longer than was asked for."""
    if start + length > rows or length > self.layout.max_length:
      raise self._corrupt([passage])
    raise ValueError(
      f'Passage {passage} has {length} tokens; passage_length is '
      f'{passage_length}. Pass at least {length} (lengths() tells).'
    )

  def _corrupt(self, passages: Sequence[int]) -> CacheCorruptError:
    found = sorted({p // self.layout.passages_per_shard for p in passages})
    return CacheCorruptError(
      f'Passages {list(passages)[:5]} of the cache {self.path} (shards '
      f'{found[:5]}) are not what was written. `btr export-cache verify` '
      'names the damaged files; starting the same build again mends them.'
    )

  def _advise_offsets(self, passage_ids: list[int]) -> None:
    """Asks for the pages that say where these passages start."""
    for passage in passage_ids:
      if passage < 0:
        continue
      index, position = divmod(passage, self.layout.passages_per_shard)
      shard = self._shards[index]
      for view in (shard.starts, shard.lengths, shard.checksums):
        if shard.mapped and view is not None:
          first = position * view.itemsize
          flat.will_need(view, first, first + view.itemsize)

  def _advise_rows(self, located: Sequence[tuple[int, Any, int, int]]):
    """Asks for the passages' rows."""
    layout = self.layout
    for _, shard, start, length in located:
      if not shard.mapped:
        continue
      for name in ('bits', 'token_ids', 'scale'):
        array = layout.array(name)
        if array is not None:
          width = array.row_bytes
          first, stop = start * width, (start + length) * width
          flat.will_need(getattr(shard, name), first, stop)

  def _check_ids(self, passage_ids: Any) -> np.ndarray:
    passage_ids = np.asarray(passage_ids)
    if not passage_ids.size:
      return passage_ids.astype(np.int64)
    if passage_ids.dtype.kind not in 'iu':
      raise IndexError(
        f'Passage ids must be integers; got {passage_ids.dtype}.'
      )
    if passage_ids.min() < -1 or passage_ids.max() >= self.num_passages:
      wrong = (passage_ids < -1) | (passage_ids >= self.num_passages)
      raise IndexError(
        f'Passage {passage_ids[wrong][0]} is not in the cache {self.path}; '
        f'its passages are 0 to {self.num_passages - 1}, and -1 stands for '
        'none. Does the retriever search the corpus of this cache?'
      )
    return passage_ids

  def _load(self, index: int) -> Any:
    layout = self.layout
    entry = self.manifest.shards[index]
    if self._verify and self._checksums is None:
      opening.check_hashes(self.path, layout, entry)
    start, stop = layout.passage_range(index)

    def rows(name: str) -> memoryview | shards.StoredRows | None:
      array = layout.array(name)
      return array and self._files.rows(array, index, entry.rows)

    def integers(name: str) -> memoryview:
      return self._files.integers(layout.array(name), index, stop - start)

    shard = _Shard()
    shard.rows = entry.rows
    shard.bits = rows('bits')
    shard.scale = rows('scale')
    shard.token_ids = rows('token_ids')
    shard.starts = integers('passage_starts')
    shard.lengths = integers('passage_lengths')
    shard.checksums = self._checksums and integers('passage_checksums')
    shard.mapped = not any(
      isinstance(source, shards.StoredRows)
      for source in (shard.bits, shard.scale, shard.token_ids)
    )
    return shard
