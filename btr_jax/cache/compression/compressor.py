"""Offline compression of a cache (paper, Algorithm 1), in bounded memory.

  1  count   every shard is checked; occurrences of each id are counted
  2  group   stop words are summed up, other tokens go to buckets by id
  3  match   each id's occurrences are merged within blocks
  4  place   shard by shard: vectors that remain, in the order of the tokens
  5  point   shard by shard: pointers of merged tokens, checksums of passages

All is read and written in long runs. The result is written aside and renamed
when it is whole, so that a killed run leaves nothing at its place; what it
leaves beside it is removed by the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import errno
import fcntl
import os
import pathlib
import shutil

from jaxtyping import Integer
import numpy as np

from btr_jax.cache import files
from btr_jax.cache.compression import format as format_lib
from btr_jax.cache.compression.grouping import Grouping, SharedVectors
from btr_jax.cache.compression.placing import Placing
from btr_jax.cache.compression.scales import ScaleFormat
from btr_jax.cache.compression.source import Source
from btr_jax.cache.errors import CacheLockedError, CacheWriteError

DEFAULT_MEMORY = 512 * 2**20
_PASSES = 4  # that report their progress in tokens
_NO_IDS = np.zeros(0, np.int64)


def compress(
  source: str | pathlib.Path,
  destination: str | pathlib.Path,
  settings: format_lib.Settings,
  stop_ids: Integer[np.ndarray, 'stop'] = _NO_IDS,
  *,
  memory_bytes: int = DEFAULT_MEMORY,
  progress: Callable[[int, int], None] | None = None,
) -> format_lib.CompressedManifest:
  """Makes a compressed copy of a cache; the source stays as it is.

  The same source and settings give the same bytes, whatever the memory.

  Args:
    source: a finished cache of a codec that stores bits.
    destination: a folder that does not exist yet.
    settings: ratio and block size.
    stop_ids: token ids of which all occurrences become one vector.
    memory_bytes: for the tokens of a bucket. Beside them stands one shard of
      the result.
    progress: called with (done, total), counted in tokens of all passes.

  Returns:
    The manifest.

  Raises:
    FileExistsError: the destination is there already.
    ValueError: the codec stores no bits.
    CacheCorruptError, CacheIncompleteError: the source is damaged or not
      finished.
    CacheLockedError: another process compresses into the same destination.
    CacheWriteError: the disk is full, or failed; nothing is left at the
      destination.
  """
  source, destination = pathlib.Path(source), pathlib.Path(destination)
  if destination.exists():
    raise FileExistsError(
      f'{destination} exists already; remove it, or name another folder.'
    )
  if format_lib.is_compressed(source):
    raise ValueError(
      f'The cache {source} is compressed already; compress the cache that it '
      'was made from.'
    )
  opened = Source(source)
  # Refuses a codec without bits before anything is written.
  ScaleFormat(opened.layout.codec_kind, opened.layout.scale_bytes)
  _check_free_space(opened, destination, settings.ratio)
  aside = destination.with_name(destination.name + files.TEMPORARY_SUFFIX)
  with _alone_in(aside):
    try:
      _remove_all(aside)
      run = _Run(opened, aside, settings, stop_ids, memory_bytes, progress)
      manifest = _explained(run.run, destination)
      aside.rename(destination)
    except BaseException:
      shutil.rmtree(aside, ignore_errors=True)
      raise
  files.sync_folder(destination.parent)
  return manifest


@contextmanager
def _alone_in(folder: pathlib.Path) -> Iterator[None]:
  """Makes a folder and locks it; the kernel lets go when the process ends.

  Raises:
    CacheLockedError: another process has it.
  """
  folder.mkdir(parents=True, exist_ok=True)
  descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
  try:
    try:
      fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
      # The holder may have renamed or removed it in between.
      mine = os.path.samestat(os.stat(folder), os.fstat(descriptor))
    except (BlockingIOError, FileNotFoundError):
      mine = False
    if not mine:
      raise CacheLockedError(
        f'Another process is compressing into {folder}. Wait for it to end, '
        'or stop it.'
      )
    yield
  finally:
    os.close(descriptor)


class _Run:
  """One compression, from the first pass to the manifest."""

  def __init__(
    self,
    source: Source,
    folder: pathlib.Path,
    settings: format_lib.Settings,
    stop_ids: np.ndarray,
    memory_bytes: int,
    progress: Callable[[int, int], None] | None,
  ):
    self._source = source
    self._folder = folder
    self._settings = settings
    self._stop_ids = np.unique(stop_ids).astype(np.int64)
    self._memory_bytes = memory_bytes
    self._progress = progress
    self._done = 0

  def run(self) -> format_lib.CompressedManifest:
    shards = range(self._source.layout.num_shards)
    work = self._folder / 'work'
    work.mkdir()
    counts = self._count(shards)
    places = np.full(len(counts), -1, np.int64)  # of ids in the codebook
    known = self._stop_ids[self._stop_ids < len(counts)]
    places[known] = np.arange(len(known))
    mergeable = np.where(places < 0, counts, 0)
    grouping = Grouping(
      self._source, work, self._settings, mergeable, self._memory_bytes
    )
    codebook = self._group(shards, grouping, known, places)
    if self._settings.ratio:
      grouping.match(self._report)
    # Stop words take no part in the matching.
    self._report(2 * self._source.layout.num_tokens - self._done)
    format_lib.write_codebook(self._folder, codebook)
    placing = Placing(
      self._source, self._folder, work, grouping, codebook, len(counts)
    )
    for shard in shards:
      placing.place(shard)
      self._report(self._source.tokens(shard))
    entries, totals = [], np.zeros(3, np.int64)
    for shard in shards:
      entry, kinds = placing.point(shard)
      entries.append(entry)
      totals += kinds
      self._report(self._source.tokens(shard))
    shutil.rmtree(work)
    manifest = format_lib.CompressedManifest(
      layout=self._source.layout,
      arrays=placing.arrays,
      fingerprints=self._source.manifest.fingerprints,
      settings=self._settings,
      stop_ids=tuple(codebook['token_id'].tolist()),
      counts=dict(
        zip(('shared', 'merged', 'own'), totals.tolist(), strict=True)
      ),
      other_files=placing.other_files(),
      shards=tuple(entries),
    )
    format_lib.write_manifest(self._folder, manifest)
    return manifest

  def _report(self, tokens: int) -> None:
    self._done += tokens
    if self._progress:
      total = _PASSES * self._source.layout.num_tokens
      self._progress(min(self._done, total), total)

  def _count(self, shards: range) -> np.ndarray:
    counts = np.zeros(1, np.int64)
    for shard in shards:
      self._source.check(shard)
      ids = self._source.rows('token_ids', shard, 0, self._source.tokens(shard))
      found = np.bincount(ids, minlength=len(counts))
      found[: len(counts)] += counts
      counts = found
    return counts

  def _group(
    self,
    shards: range,
    grouping: Grouping,
    stop_ids: np.ndarray,
    places: np.ndarray,
  ) -> np.ndarray:
    """Sums stop words up, sends the others to buckets; gives the codebook."""
    shared = SharedVectors(self._source, stop_ids)
    for shard in shards:
      first = shard * self._source.layout.rows_per_shard
      for start, ids, bits, scale in self._source.blocks(shard):
        place = places[ids]
        stop = place >= 0
        shared.add(place[stop], bits[stop], scale[stop])
        if self._settings.ratio:
          rows = first + start + np.flatnonzero(~stop)
          grouping.add(rows, ids[~stop], bits[~stop], scale[~stop])
        self._report(len(ids))
    return shared.codebook()


def _check_free_space(
  source: Source, destination: pathlib.Path, ratio: float
) -> None:
  folder = destination.absolute()
  while not folder.exists():
    folder = folder.parent
  size = sum(
    entry.bytes
    for shard in source.manifest.shards
    for entry in shard.files.values()
  )
  layout = source.layout
  token = layout.bits_bytes + layout.scale_bytes
  # First all tokens in their buckets; then what is merged (four records of
  # each) beside a result that is at worst as large as the source.
  grouped = layout.num_tokens * (12 + token)
  placed = size + int(layout.num_tokens * ratio * (50 + 2 * token))
  needed = max(grouped if ratio else 0, placed)
  free = shutil.disk_usage(folder).free
  if free < needed:
    raise CacheWriteError(
      errno.ENOSPC,
      f'Compressing {source.path} takes about {needed:,} bytes while it runs, '
      f'but the disk of {folder} has {free:,} free. Free {needed - free:,} '
      'bytes, or name a destination on another disk.',
    )


def _explained(run: Callable, destination: pathlib.Path):
  """Runs; a failing disk becomes an error that says what is left."""
  try:
    return run()
  except OSError as error:
    raise CacheWriteError(
      error.errno or errno.EIO,
      f'Compressing into {destination} failed: {error}. Nothing is left '
      'there; free space or mend the disk, then start again.',
    ) from error


def _remove_all(folder: pathlib.Path) -> None:
  """Removes what a killed run has left; the folder itself is locked."""
  for entry in folder.iterdir():
    if entry.is_dir():
      shutil.rmtree(entry)
    else:
      entry.unlink()
