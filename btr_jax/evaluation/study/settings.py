"""What is compared: settings, and the tables that they are the lines of.

A *setting* is one way of answering. It is run once, whatever number of tables
show it. A *line* is a place in a table: a label, a setting, and the key of the
paper's own figure for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import json
from typing import Any

JOINT = 'joint'
FLOAT_CACHE = 'decomposed-cached'
SPAN_JOINT = 'span-joint'
SPAN_BINARY = 'span-binary'
# Systems that are no T5 reader of a family, and what each is held against.
QUANTIZED = ('joint-int8', 'joint-int4')
PHRASES = 'phrases'
LANGUAGE_MODEL = 'language-model'
SPAN = (SPAN_JOINT, SPAN_BINARY)
BASELINES = (*QUANTIZED, PHRASES, LANGUAGE_MODEL, *SPAN)
# Names by which `--readers` fills the rows of the paper's table 3 that need a
# training of their own.
TRAINED_WITHOUT = {
  'no-recovery': 'recovery loss',
  'no-distillation': 'query-aware distillation',
}
_CROSS_PERIOD = 3  # g of the paper
TABLES = ('main', 'ablations', 'passages', 'offline', 'runtime')

LABELS = {
  JOINT: 'joint (Atlas, FiD)',
  'joint-absorbed': 'joint, absorbed cross-attention',
  'joint-int8': 'joint, 8-bit weights',
  'joint-int4': 'joint, 4-bit weights (Atlas-Q)',
  'decomposed': 'decomposed, recomputed',
  FLOAT_CACHE: 'decomposed, float cache (DeFormer)',
  PHRASES: 'phrase index (DensePhrases)',
  LANGUAGE_MODEL: 'decoder-only language model (LLaMA2)',
  SPAN_JOINT: 'span reader, joint (BERT)',
  SPAN_BINARY: 'span reader, binary (BTR-BERT)',
}


@dataclasses.dataclass(frozen=True)
class Setting:
  """One way of answering.

  Attributes:
    system: a name of `LABELS`, or `binary-CODEC`.
    passages: read per question.
    offline_ratio: share of the occurrences that is merged in the cache; stop
      words share a vector then. None reads the cache as it was built.
    intra_ratio: of runtime merging within passages.
    cross_ratio: of runtime merging across passages.
    cross_period: of the decoder layers that merge; the default where none
      does, so that equal settings are equal.
    reader: name of a reader beside the family; '' is the family.
    int8_products: whether the encoder multiplies in eight bits.
  """

  system: str
  passages: int
  offline_ratio: float | None = None
  intra_ratio: float = 0.0
  cross_ratio: float = 0.0
  cross_period: int = _CROSS_PERIOD
  reader: str = ''
  int8_products: bool = False

  def __post_init__(self):
    if not self.cross_ratio:
      object.__setattr__(self, 'cross_period', _CROSS_PERIOD)

  def to_dict(self) -> dict[str, Any]:
    """JSON values."""
    return dataclasses.asdict(self)

  @property
  def slug(self) -> str:
    """A name for its file that people can read; unique."""
    parts = [self.system, f'p{self.passages}']
    if self.offline_ratio is not None:
      parts.append(f'offline{self.offline_ratio:g}')
    if self.intra_ratio:
      parts.append(f'intra{self.intra_ratio:g}')
    if self.cross_ratio:
      parts.append(f'cross{self.cross_ratio:g}by{self.cross_period}')
    if self.reader:
      key = hashlib.sha256(self.reader.encode()).hexdigest()[:6]
      safe = ''.join(c if c.isalnum() else '-' for c in self.reader)
      parts.append(f'{safe}-{key}')
    if self.int8_products:
      parts.append('int8products')
    return '_'.join(parts)

  @property
  def baseline(self) -> Setting | None:
    """What its speed and accuracy are told against; None for itself."""
    if self.system == SPAN_BINARY:
      return Setting(SPAN_JOINT, self.passages)
    if self.system == SPAN_JOINT:
      return None
    joint = Setting(JOINT, self.passages)
    return None if self == joint else joint


@dataclasses.dataclass(frozen=True)
class Line:
  """A line of a table.

  Attributes:
    label: for people.
    setting: what is run; None where there is nothing to run.
    paper: the key of the paper's figures; None where it has none.
    reason: why there is nothing to run.
    x: the number that a curve is drawn over: a ratio, or passages.
  """

  label: str
  setting: Setting | None
  paper: Any = None
  reason: str = ''
  x: int | float | None = None


@dataclasses.dataclass(frozen=True)
class Table:
  """A table, before anything has run.

  Attributes:
    name: one of TABLES.
    title: for people.
    paper: which table of the paper it is made like.
    lines: from top to bottom.
    timed: whether it shows questions per second.
  """

  name: str
  title: str
  paper: str
  lines: tuple[Line, ...]
  timed: bool = True


@dataclasses.dataclass(frozen=True)
class Choice:
  """What the tables are made of.

  Attributes:
    systems: of the family, as `btr evaluate --mode all` has them, and
      `BASELINES`; in the order of the main table.
    codec: that the ablations are of.
    passages: read per question.
    passage_counts: of the table over passages.
    ratios: of both tables over ratios.
    offline_ratio: of BTR in full.
    runtime_ratio: of BTR in full, in both places.
    cross_period: of merging across passages.
    trained: names of further readers -> their codec.
  """

  systems: tuple[str, ...]
  codec: str | None
  passages: int
  passage_counts: tuple[int, ...]
  ratios: tuple[float, ...]
  offline_ratio: float = 0.2
  runtime_ratio: float = 0.2
  cross_period: int = _CROSS_PERIOD
  trained: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def full(self, **changes: Any) -> Setting:
    """BTR with bits and all three compressions, but for `changes`."""
    values = {
      'system': f'binary-{self.codec}',
      'passages': self.passages,
      'offline_ratio': self.offline_ratio,
      'intra_ratio': self.runtime_ratio,
      'cross_ratio': self.runtime_ratio,
      'cross_period': self.cross_period,
    }
    return Setting(**(values | changes))


def label_of(system: str) -> str:
  """A system's name for people."""
  if system.startswith('binary-'):
    return f'binary, {system.removeprefix("binary-")} codec'
  return LABELS[system]


_PAPER_MAIN = {
  JOINT: 'Atlas',
  'joint-int4': 'Atlas-Q',
  FLOAT_CACHE: 'DeFormer',
  PHRASES: 'DensePhrases',
  LANGUAGE_MODEL: 'LLaMA2-7B',
  SPAN_JOINT: 'BERT',
  SPAN_BINARY: 'BTR-BERT',
}


def _main_lines(choice: Choice) -> list[Line]:
  lines = []
  for system in choice.systems:
    setting = Setting(system, choice.passages)
    label = label_of(system)
    lines.append(Line(label, setting, _PAPER_MAIN.get(system)))
    if system in (JOINT, f'binary-{choice.codec}'):
      integers = dataclasses.replace(setting, int8_products=True)
      lines.append(Line(f'{label}, 8-bit products', integers))
    if system.startswith('binary-'):
      offline = dataclasses.replace(setting, offline_ratio=choice.offline_ratio)
      lines.append(Line(f'{label}, + offline compression', offline))
      full = choice.full(system=system)
      # The paper's row is BTR with everything.
      lines.append(Line(f'{label}, + runtime merging (BTR)', full, 'BTR'))
  return lines


def _ablation_lines(choice: Choice) -> list[Line]:
  full = choice.full
  bits = full(system=FLOAT_CACHE, offline_ratio=None)
  lines = [
    Line('joint', Setting(JOINT, choice.passages), 'joint'),
    Line('BTR in full', full(), 'full'),
    Line('- binary tokens (float cache)', bits, 'bits'),
    Line('- offline compression', full(offline_ratio=None), 'offline'),
    Line('- merging in passages', full(intra_ratio=0.0), 'intra'),
    Line('- merging across passages', full(cross_ratio=0.0), 'cross'),
    Line('- both mergings', full(intra_ratio=0.0, cross_ratio=0.0)),
    Line(
      '- all three compressions',
      full(offline_ratio=None, intra_ratio=0.0, cross_ratio=0.0),
    ),
  ]
  for name, what in TRAINED_WITHOUT.items():
    if name not in choice.trained:
      reason = (
        f'needs a reader trained without it: --readers {name}=FOLDER '
        '(training: docs/report.md)'
      )
      lines.append(Line(f'- {what}', None, name, reason))
  for name, codec in choice.trained.items():
    what = TRAINED_WITHOUT.get(name)
    label = f'- {what}' if what else f'reader {name}'
    setting = full(system=f'binary-{codec}', reader=name)
    lines.append(Line(label, setting, name if what else None))
  return lines


def _passage_lines(choice: Choice) -> list[Line]:
  lines = []
  for count in choice.passage_counts:
    for label, setting in (
      (f'{count}, joint', Setting(JOINT, count)),
      (f'{count}, BTR', choice.full(passages=count)),
    ):
      lines.append(Line(label, setting, count, x=count))
  return lines


def tables_of(choice: Choice) -> list[Table]:
  """The tables, in the order in which they are made and shown.

  Args:
    choice: what they are made of.

  Returns:
    All of `TABLES`; but the main one has no line that can run where the reader
    has no codec.
  """
  tables = [
    Table(
      'main', 'The systems', 'tables 1, 2 and 6', tuple(_main_lines(choice))
    )
  ]
  if choice.codec is None:
    return tables
  offline = [Line('as built', choice.full(offline_ratio=None))] + [
    Line(f'{r:g}', choice.full(offline_ratio=r), r, x=r) for r in choice.ratios
  ]
  unmerged = choice.full(intra_ratio=0.0, cross_ratio=0.0)
  runtime = [Line('0', unmerged, x=0.0)] + [
    Line(f'{r:g}', choice.full(intra_ratio=r, cross_ratio=r), r, x=r)
    for r in choice.ratios
  ]
  return [
    *tables,
    Table(
      'ablations',
      'What each part does',
      'table 3',
      tuple(_ablation_lines(choice)),
    ),
    Table(
      'passages', 'Passages read', 'table 8', tuple(_passage_lines(choice))
    ),
    Table(
      'offline',
      'Share that offline compression merges',
      'table 9a',
      tuple(offline),
      timed=False,
    ),
    Table(
      'runtime', 'Share that runtime merging merges', 'table 9b', tuple(runtime)
    ),
  ]


def to_run(tables: Sequence[Table]) -> dict[Setting, bool]:
  """Every setting once, and whether any table needs its speed.

  Those that others are told against come first.
  """
  found: dict[Setting, bool] = {}
  for table in tables:
    for line in table.lines:
      if line.setting is not None:
        timed = found.get(line.setting, False) or table.timed
        found[line.setting] = timed
  first = [s for s in found if s.baseline is None]
  return {s: found[s] for s in (*first, *(s for s in found if s not in first))}


def fingerprint(values: Any) -> str:
  """SHA-256 of JSON values."""
  text = json.dumps(values, sort_keys=True, ensure_ascii=False)
  return hashlib.sha256(text.encode()).hexdigest()
