"""Plain text, Markdown and HTML as streams of titles, headings and text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
import html.parser
import pathlib
import re

from btr_jax.data.corpus.splitting import Kind, Piece

MARKDOWN = ('.md', '.markdown')
HTML = ('.html', '.htm', '.xhtml')
PLAIN = ('.txt', '.text', '.rst')
SUFFIXES = (*PLAIN, *MARKDOWN, *HTML)

_FENCE = re.compile(r'\s*(```|~~~)')
_HEADING = re.compile(r'\s{0,3}(#{1,6})\s+(.*?)\s*#*\s*$')
_UNDERLINE = re.compile(r'\s{0,3}(=+|-+)\s*$')
_RULE = re.compile(r'[\s|:+=*_-]+$')
_LINK = re.compile(r'!?\[([^\]]*)\]\([^)\s]*(?:\s+"[^"]*")?\)')
_LIST = re.compile(r'^\s*(?:[-*+]|\d+[.)])\s+|^\s*>\s?')
_EMPHASIS = re.compile(r'(\*{1,3}|_{2,3}|`+)(?=\S)(.+?)(?<=\S)\1')
_COMMENT = re.compile(r'<!--.*?-->')

_SKIPPED = frozenset(('script', 'style', 'noscript', 'template', 'svg'))
_INLINE = frozenset(
  """a abbr b bdi bdo cite code data dfn em font i kbd mark q s samp small span
  strike strong sub sup time tt u var wbr""".split()
)
_HEADINGS = frozenset(f'h{level}' for level in range(1, 7))


def title_of(name: str) -> str:
  """A title from a file's name: 'notes/green_tea.md' -> 'green tea'."""
  stem = pathlib.PurePath(name).name.partition('.')[0]
  return ' '.join(re.sub(r'[_-]+', ' ', stem).split()) or name


def pieces_of(suffix: str, lines: Iterable[str]) -> Iterator[Piece]:
  """The document's pieces, by the kind of its file.

  Args:
    suffix: one of `SUFFIXES`.
    lines: of the document.
  """
  if suffix in HTML:
    return _html_pieces(lines)
  if suffix in MARKDOWN:
    return _markdown_pieces(lines)
  return (Piece(Kind.TEXT, line) for line in lines)


def _plain(line: str) -> str:
  """A line of Markdown without its marks."""
  line = _COMMENT.sub(' ', line)
  line = _LIST.sub('', line)
  if _RULE.fullmatch(line):
    return ''
  line = _LINK.sub(r'\1', line)
  line = _EMPHASIS.sub(r'\2', line)
  if line.lstrip().startswith('|'):
    line = line.replace('|', ' ')
  return line


def _markdown_pieces(lines: Iterable[str]) -> Iterator[Piece]:
  fenced = titled = False
  held: str | None = None  # a line that an underline may turn into a heading
  front_matter = False

  def heading(level: int, text: str) -> Piece:
    nonlocal titled
    kind = Kind.HEADING if titled or level > 1 else Kind.TITLE
    titled = titled or kind is Kind.TITLE
    return Piece(kind, _plain(text))

  for number, line in enumerate(lines):
    if number == 0 and line.strip() == '---':
      front_matter = True
      continue
    if front_matter:
      front_matter = line.strip() not in ('---', '...')
      name, _, value = line.partition(':')
      if name.strip().lower() == 'title' and value.strip():
        titled = True
        yield Piece(Kind.TITLE, value.strip().strip('"\''))
      continue
    if _FENCE.match(line):
      fenced = not fenced
      continue
    found = None if fenced else _HEADING.match(line)
    underline = None if fenced or not held else _UNDERLINE.match(line)
    if underline and not found:
      yield heading(1 if underline[1][0] == '=' else 2, held or '')
      held = None
      continue
    if held is not None:
      yield Piece(Kind.TEXT, _plain(held))
      held = None
    if found:
      yield heading(len(found[1]), found[2])
    elif fenced:
      yield Piece(Kind.TEXT, line)
    elif line.strip():
      held = line
  if held is not None:
    yield Piece(Kind.TEXT, _plain(held))


class _HtmlReader(html.parser.HTMLParser):
  """Gathers pieces; the standard library's parser accepts broken HTML."""

  def __init__(self) -> None:
    super().__init__(convert_charrefs=True)
    self.ready: list[Piece] = []
    self._text: list[str] = []
    self._kind = Kind.TEXT
    self._skipped = 0
    self._titled = False

  def handle_starttag(self, tag: str, attrs: object) -> None:
    if tag in _SKIPPED:
      self._skipped += 1
    elif tag not in _INLINE:
      self.flush()
    if tag == 'title':
      self._kind = Kind.TITLE
    elif tag in _HEADINGS:
      first = tag == 'h1' and not self._titled
      self._kind = Kind.TITLE if first else Kind.HEADING

  def handle_endtag(self, tag: str) -> None:
    if tag in _SKIPPED:
      self._skipped = max(0, self._skipped - 1)
    elif tag not in _INLINE:
      self.flush()

  def handle_data(self, data: str) -> None:
    if not self._skipped:
      self._text.append(data)

  def flush(self) -> None:
    """Ends a block."""
    text = ' '.join(''.join(self._text).split())
    self._text = []
    if text:
      self._titled = self._titled or self._kind is Kind.TITLE
      self.ready.append(Piece(self._kind, text))
    self._kind = Kind.TEXT


def _html_pieces(lines: Iterable[str]) -> Iterator[Piece]:
  reader = _HtmlReader()
  for line in lines:
    reader.feed(line + '\n')
    yield from reader.ready
    reader.ready.clear()
  reader.close()
  reader.flush()
  yield from reader.ready
