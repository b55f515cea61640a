"""Text normalisation shared by retrieval, metrics and corpus preparation."""

import html
import re
import string
import unicodedata

_ARTICLES = re.compile(r'\b(a|an|the)\b')
_PUNCTUATION = str.maketrans('', '', string.punctuation)
# What TriviaQA's script writes as spaces, beside ASCII punctuation.
_TRIVIAQA_PUNCTUATION = str.maketrans(
  dict.fromkeys(string.punctuation + '‘’´`', ' ')
)
_BREAK = re.compile(r'<\s*(?:br|/?p|/?li|/?ul|/?div)\b[^>]*>', re.IGNORECASE)
_TAG = re.compile(r'<[^<>]*>')
_SPACES = re.compile(r'\s+')
_PLAIN = str.maketrans(
  {
    '‘': "'",
    '’': "'",
    'ʻ': "'",
    '“': '"',
    '”': '"',
    '–': '-',
    '—': '-',
    '\u200b': None,
    '\ufeff': None,
    '\u00ad': None,
  }
)


def normalize_answer(text: str) -> str:
  """Lowers `text` and drops punctuation, articles and spare spaces.

  These are the rules of SQuAD v1.1's evaluation script, which every
  open-domain question answering paper uses for exact match and F1.

  Args:
    text: an answer as a user or a model wrote it.

  Returns:
    The normalised answer; possibly empty.
  """
  text = text.lower().translate(_PUNCTUATION)
  return ' '.join(_ARTICLES.sub(' ', text).split())


def normalize_triviaqa_answer(text: str) -> str:
  """Lowers `text` and drops articles, punctuation and spare spaces.

  These are the rules of TriviaQA's evaluation script. Unlike SQuAD's, it
  writes punctuation as spaces ("well-known" becomes two words, "U.S." is "u
  s"), so that an article behind punctuation goes as well ("a.m." is "m"), and
  it knows typographic apostrophes.

  Args:
    text: an answer as a user or a model wrote it.

  Returns:
    The normalised answer; possibly empty.
  """
  text = text.lower().translate(_TRIVIAQA_PUNCTUATION)
  return ' '.join(_ARTICLES.sub(' ', text).split())


def answer_tokens(text: str) -> list[str]:
  """Splits the normalised `text` into words."""
  return normalize_answer(text).split()


def strip_html(text: str) -> str:
  """Turns an HTML fragment into one line of plain, NFKC-normalised text.

  Block tags and line breaks end a sentence (so that what stood on two lines
  does not run together); other tags vanish; entities are decoded, also those
  that were escaped twice.

  Args:
    text: text that may hold tags and entities.

  Returns:
    The text on one line, with single spaces and plain quotes and dashes.
  """
  for _ in range(2):
    text = html.unescape(text)
  text = _BREAK.sub('\n', text)
  text = _TAG.sub('', text)
  text = unicodedata.normalize('NFKC', text).translate(_PLAIN)
  lines = [_SPACES.sub(' ', line).strip() for line in text.split('\n')]
  result = ''
  for line in lines:
    if not line:
      continue
    if result:
      result += ' ' if result[-1] in '.;:,!?-' else '; '
    result += line
  return result


def fold_diacritics(text: str) -> str:
  """Writes Latin letters without their marks ("Côte" becomes "Cote").

  A small vocabulary spells marked letters piece by piece; without marks the
  words share pieces with the rest, and users type them so anyway.
  """
  letters = unicodedata.normalize('NFD', text)
  kept = (c for c in letters if not unicodedata.combining(c))
  return unicodedata.normalize('NFC', ''.join(kept))
