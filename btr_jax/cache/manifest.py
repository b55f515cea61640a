"""The manifest: what a cache is, whom it belongs to, and its ledger of shards.

`manifest.json` is written twice: when a build begins (`building`, empty
ledger) and when it ends (`complete`, whole ledger). In between each shard has
its own file in `ledger/`, so that several writers never touch one file. It
holds no time and no host name: the same corpus and model give the same bytes.

A complete one has a copy. Without the checksums nobody could tell sound shards
from damaged ones, and one flipped bit would cost a whole build.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import json
import pathlib
from typing import Any

from btr_jax.cache import files, places
from btr_jax.cache.errors import CacheCorruptError
from btr_jax.cache.layout import CacheLayout

FORMAT_VERSION = 1
MANIFEST_NAME = 'manifest.json'
COPY_NAME = 'manifest.copy.json'
LEDGER_NAME = 'ledger'
BUILDING = 'building'
COMPLETE = 'complete'
REQUIRED_FINGERPRINTS = ('model', 'codec', 'tokenizer', 'corpus')
_CHECKSUM = 'content_sha256'


@dataclasses.dataclass(frozen=True)
class FileEntry:
  """Size and SHA-256 of one file."""

  bytes: int
  sha256: str

  @classmethod
  def of(cls, path: pathlib.Path) -> FileEntry:
    return cls(path.stat().st_size, files.sha256_of(path))

  @classmethod
  def of_pieces(cls, pieces: Sequence[files.Buffer]) -> FileEntry:
    size = sum(len(piece) for piece in pieces)
    return cls(size, files.sha256_of_pieces(pieces))


@dataclasses.dataclass(frozen=True)
class ShardEntry:
  """One shard of the ledger.

  Attributes:
    index: number of the shard.
    rows: its tokens.
    files: array name -> entry; an array without rows has no file.
  """

  index: int
  rows: int
  files: Mapping[str, FileEntry]

  def to_dict(self) -> dict[str, Any]:
    return {
      'index': self.index,
      'rows': self.rows,
      'files': {k: dataclasses.asdict(v) for k, v in self.files.items()},
    }

  @classmethod
  def from_dict(cls, values: Mapping[str, Any]) -> ShardEntry:
    entries = {k: FileEntry(**v) for k, v in values['files'].items()}
    return cls(values['index'], values['rows'], entries)


@dataclasses.dataclass(frozen=True)
class Manifest:
  """What a cache says about itself.

  Attributes:
    layout: its shape.
    fingerprints: at least model, codec, tokenizer and corpus.
    status: `building` or `complete`.
    metadata_files: zarr.json files, relative path -> entry (when complete).
    shards: the ledger, by index (when complete).
  """

  layout: CacheLayout
  fingerprints: Mapping[str, str]
  status: str = BUILDING
  metadata_files: Mapping[str, FileEntry] = dataclasses.field(
    default_factory=dict
  )
  shards: tuple[ShardEntry, ...] = ()

  def to_dict(self) -> dict[str, Any]:
    return {
      'format_version': FORMAT_VERSION,
      'status': self.status,
      'layout': self.layout.to_dict(),
      'fingerprints': dict(self.fingerprints),
      'metadata_files': {
        name: dataclasses.asdict(entry)
        for name, entry in self.metadata_files.items()
      },
      'shards': [shard.to_dict() for shard in self.shards],
    }

  @classmethod
  def from_dict(cls, values: Mapping[str, Any]) -> Manifest:
    return cls(
      layout=CacheLayout.from_dict(values['layout']),
      fingerprints=dict(values['fingerprints']),
      status=values['status'],
      metadata_files={
        name: FileEntry(**entry)
        for name, entry in values['metadata_files'].items()
      },
      shards=tuple(ShardEntry.from_dict(shard) for shard in values['shards']),
    )


def encode_json(values: Mapping[str, Any]) -> bytes:
  """JSON with a checksum over everything else in it."""
  body = json.dumps(values, sort_keys=True)
  checksum = hashlib.sha256(body.encode()).hexdigest()
  whole = dict(values) | {_CHECKSUM: checksum}
  return (json.dumps(whole, sort_keys=True, indent=1) + '\n').encode()


def decode_json(content: bytes, source: object) -> dict[str, Any]:
  """The inverse of encode_json.

  Raises:
    CacheCorruptError: not JSON, or its checksum does not match.
  """
  try:
    values = json.loads(content)
    checksum = values.pop(_CHECKSUM)
    body = json.dumps(values, sort_keys=True)
  except (ValueError, KeyError, AttributeError, TypeError) as error:
    raise CacheCorruptError(
      f'{source} is not readable: {error!r}. Run `btr export-cache repair`.'
    ) from error
  found = hashlib.sha256(body.encode()).hexdigest()
  if found != checksum:
    raise CacheCorruptError(
      f'{source} was altered: its content has SHA-256 {found}, but it says '
      f'{checksum}. Run `btr export-cache repair`.'
    )
  return values


def write_manifest(
  place: str | pathlib.Path | places.Place, manifest: Manifest, tag: str = ''
) -> None:
  """Writes `manifest.json`, and when it is complete its copy first."""
  place = places.open_place(place)
  content = encode_json(manifest.to_dict())
  if manifest.status == COMPLETE:
    place.write(COPY_NAME, content, tag)
  place.write(MANIFEST_NAME, content, tag)


def read_manifest(
  place: str | pathlib.Path | places.Place, name: str = MANIFEST_NAME
) -> Manifest:
  """Reads `manifest.json` of a cache, or its copy.

  Raises:
    FileNotFoundError: there is none.
    CacheCorruptError: it is damaged, or of another format version.
  """
  place = places.open_place(place)
  path = f'{place}/{name}'
  try:
    content = place.read(name)
  except FileNotFoundError:
    raise FileNotFoundError(
      f'{place} is not a cache: it has no {name}. Build one with '
      '`btr export-cache build`.'
    ) from None
  return parse_manifest(content, path)


def parse_manifest(content: bytes, path: object) -> Manifest:
  """The manifest that stood in `path`; CacheCorruptError as above."""
  values = decode_json(content, path)
  version = values.get('format_version')
  if version != FORMAT_VERSION:
    raise CacheCorruptError(
      f'{path} has format version {version}; this btr_jax reads '
      f'{FORMAT_VERSION}. Use the version that wrote it, or build it again.'
    )
  try:
    return Manifest.from_dict(values)
  except (KeyError, TypeError) as error:
    raise CacheCorruptError(
      f'{path} lacks or does not know a field: {error}. Run `btr export-cache '
      'repair`.'
    ) from error
