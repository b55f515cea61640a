"""The rows whose readers are of the family: engines, caches."""

from __future__ import annotations

from collections.abc import Mapping
import pathlib
import shutil
from typing import Any

from btr_jax import cache as cache_lib
from btr_jax import config as config_lib
from btr_jax.cache import compression
from btr_jax.evaluation import multiple_choice
from btr_jax.evaluation.study import settings
from btr_jax.models import reader_files
from btr_jax.serving import engine as engine_lib
from btr_jax.tools import caches, report_rows, report_task, systems
from btr_jax.tools import progress as progress_lib


class FamilySource:
  """The readers of a family, and further readers by name."""

  def __init__(
    self,
    family: pathlib.Path,
    trained: Mapping[str, pathlib.Path],
    task: report_task.Task,
    kept_ratio: float,
  ):
    """Nothing is read yet.

    Args:
      family: folder with the readers of the stages.
      trained: further readers with a codec, by name.
      task: its questions and corpus.
      kept_ratio: of offline compression; caches of other ratios are removed
        again once their row is there.
    """
    self._family = family
    self._trained = trained
    self._task = task
    self._kept_ratio = kept_ratio
    self._fingerprints: dict[Any, str] = {}

  def _load(self, setting: settings.Setting) -> reader_files.LoadedReader:
    folder = self._family
    if setting.reader:
      folder = self._trained[setting.reader]
    try:
      return systems.load(folder, system_of(setting))
    except reader_files.ReaderFileError as error:
      raise report_rows.NotRun(str(error)) from error

  def fingerprint(self, setting: settings.Setting) -> str:
    """Of the reader, and where it reads a cache also of the corpus."""
    key = setting.reader, setting.system
    if key not in self._fingerprints:
      parts = [self._load(setting).whole_fingerprint()]
      if system_of(setting).cached:
        parts.append(self._task.corpus.fingerprint)
      self._fingerprints[key] = settings.fingerprint(parts)
    return self._fingerprints[key]

  def start(self, setting: settings.Setting) -> report_rows.Running:
    """Opens the reader and its cache, which is made if it is missing."""
    system = system_of(setting)
    reader = self._load(setting)
    merging = config_lib.MergingConfig(
      setting.intra_ratio, setting.cross_ratio, setting.cross_period
    )
    layers = range(reader.config.num_decoder_layers)
    if setting.cross_ratio and not any(map(merging.merges_at, layers)):
      raise report_rows.NotRun(
        f'merging across passages before every {setting.cross_period} decoder '
        f'layers does nothing, for there are {len(layers)}; give '
        f'--cross-period 1 to {len(layers)}.'
      )
    cache = stored = None
    if system.cached:
      path = self._cache(reader, setting)
      cache = cache_lib.CacheStore.open(
        path, caches.fingerprints(reader, self._task.corpus)
      )
      stored = cache_lib.storage_report(path)
    letters = self._task.metric.letters
    engine_type = multiple_choice.LetterEngine if letters else engine_lib.Engine
    engine = engine_type(
      reader,
      self._task.corpus.passages,
      cache=cache,
      mode=system.mode,
      num_passages=setting.passages,
      inference=config_lib.InferenceConfig(
        system.cross_attention, merging, int8_products=setting.int8_products
      ),
    )
    return report_rows.Running(
      engine,
      reader.model_bytes,
      **report_rows.of_cache(stored),
      details={'reader': reader.path.name, 'codec': _codec(reader, system)},
    )

  def _cache(
    self, reader: reader_files.LoadedReader, setting: settings.Setting
  ) -> pathlib.Path:
    path = caches.default_path(reader, self._task.corpus)
    caches.open_cache(
      path, reader, self._task.corpus, build_missing=True, command=''
    )
    if setting.offline_ratio is None:
      return path
    small = compressed_path(path, setting.offline_ratio)
    if not small.exists():
      vocabulary = reader.vocabulary
      pieces = vocabulary.pieces(range(vocabulary.vocab_size))
      with progress_lib.Progress(f'compress to {small.name}') as progress:
        compression.compress(
          path,
          small,
          compression.Settings(setting.offline_ratio),
          compression.stop_ids(pieces),
          progress=progress,
        )
    return small

  def finished(self, setting: settings.Setting) -> None:
    """Removes the cache of a ratio that only its own row reads."""
    ratio = setting.offline_ratio
    if ratio is not None and ratio != self._kept_ratio:
      reader = self._load(setting)
      path = caches.default_path(reader, self._task.corpus)
      shutil.rmtree(compressed_path(path, ratio), ignore_errors=True)


def compressed_path(path: pathlib.Path, ratio: float) -> pathlib.Path:
  """Where the compressed copy of a cache is kept."""
  return path.with_name(f'{path.name}-offline{ratio:g}')


def _codec(reader, system: systems.System) -> str | None:
  if not system.cached:
    return None
  layout = reader.model.codec_layout
  return f'{layout.kind}, {layout.bits_bytes}+{layout.scale_bytes} bytes'


def system_of(setting: settings.Setting) -> systems.System:
  """The system of the family that a setting runs."""
  for system in systems.UNCACHED:
    if system.name == setting.system:
      return system
  if setting.system == settings.FLOAT_CACHE:
    return systems.binary('float')
  return systems.binary(setting.system.removeprefix('binary-'))
