"""Files of many kinds into passages; what is wrong is counted and named."""

import bz2
import gzip
import json
import lzma
import tracemalloc

import pytest

from btr_jax.data import records
from btr_jax.data.corpus import documents, prepare, splitting, store
from btr_jax.data.corpus.lines import unquoted
from btr_jax.data.corpus.splitting import Kind, Piece

WORDS = ' '.join(f'w{i}' for i in range(250))


def run(tmp_path, *inputs, **options):
  """Prepares; returns passages and report."""
  report, new = prepare.prepare(
    inputs, tmp_path / 'out', prepare.Options(**options)
  )
  assert new
  return store.PassageFile(tmp_path / 'out')[:], report


def write(path, *values):
  """JSON Lines."""
  path.write_text(''.join(json.dumps(value) + '\n' for value in values))
  return path


def test_split_never_crosses_a_heading():
  pieces = [
    Piece(Kind.TEXT, 'before'),
    Piece(Kind.TITLE, 'Tea '),
    Piece(Kind.TEXT, 'a b c'),
    Piece(Kind.TEXT, 'd e f g'),
    Piece(Kind.HEADING, 'History'),
    Piece(Kind.TEXT, 'x'),
  ]
  assert list(splitting.split(pieces, 'file', 3)) == [
    ('file', 'before'),
    ('Tea', 'a b c'),
    ('Tea', 'd e f'),
    ('Tea', 'g'),
    ('Tea: History', 'x'),
  ]


@pytest.mark.parametrize(
  ('field', 'expected'),
  [
    ('"He said ""no"" twice"', 'He said "no" twice'),
    ('"Official" ways and "others"', '"Official" ways and "others"'),
    ('plain', 'plain'),
    ('""', ''),
    ('"', '"'),
  ],
)
def test_unquoted(field, expected):
  assert unquoted(field) == expected


PSGS = (
  'id\ttext\ttitle\n'
  '1\t"Aaron is a ""prophet"" ."\tAaron\n'
  '2\tother text\t"A. B."\n'
)


@pytest.mark.parametrize(
  ('suffix', 'pack'),
  [
    ('', bytes),
    ('.gz', gzip.compress),
    ('.xz', lzma.compress),
    ('.bz2', bz2.compress),
  ],
)
def test_dprs_table(suffix, pack, tmp_path):
  path = tmp_path / f'psgs_w100.tsv{suffix}'
  path.write_bytes(pack(PSGS.encode()))
  passages, report = run(tmp_path, path)
  assert passages == [
    records.Passage('1', 'Aaron', 'Aaron is a "prophet" .'),
    records.Passage('2', 'A. B.', 'other text'),
  ]
  assert report['problems'] == {}


def test_a_table_with_wrong_lines(tmp_path):
  path = tmp_path / 'p.tsv'
  path.write_text(
    'id\ttext\ttitle\n1\tonly two\n2\ta\tT\tmore\n3\t \tT\n\tx\tT\n4\tgood\tT\n'
    '4\tanother\tT\n5\tgood\tT\n'
  )
  passages, report = run(tmp_path, path)
  assert [p.id for p in passages] == ['4']
  assert report['problems'] == {
    'columns': 2,
    'empty text': 1,
    'no id': 1,
    'duplicate id': 1,
  }
  assert report['duplicates'] == 1
  first = report['first_problems']
  assert first[0].startswith('p.tsv, line 2: columns: found 2 columns, expec')
  assert first[1].startswith('p.tsv, line 3: columns: found 4')
  assert first[4].startswith("p.tsv, line 7: duplicate id: the id '4'")
  written = (tmp_path / 'out' / 'problems.txt').read_text().splitlines()
  assert written == first


def test_another_order_of_columns(tmp_path):
  path = tmp_path / 'p.tsv'
  path.write_text('title\tid\ttext\nT\t9\tthe text\n')
  assert run(tmp_path, path)[0] == [records.Passage('9', 'T', 'the text')]


def test_lines_of_atlas(tmp_path):
  text = write(
    tmp_path / 'text-list-100-sec.jsonl',
    {'id': '0', 'title': 'Peru', 'section': 'History', 'text': 'Inca.'},
    {'id': '1', 'title': 'Peru', 'section': '', 'text': 'A country.'},
  )
  infobox = write(
    tmp_path / 'infobox.jsonl',
    {'id': 'i0', 'title': 'Peru', 'text': 'Capital: Lima', 'type': 'infobox'},
  )
  passages, _ = run(tmp_path, text, infobox)
  assert passages == [
    records.Passage('0', 'Peru: History', 'Inca.'),
    records.Passage('1', 'Peru', 'A country.'),
    records.Passage('i0', 'Peru', 'Capital: Lima'),
  ]


def test_pages_of_kilt(tmp_path):
  page = {
    '_id': '12',
    'wikipedia_id': '12',
    'wikipedia_title': 'Tea',
    'text': [
      'Tea\n',
      'Tea is a drink.\n',
      'Section::::History.\n',
      'It is old.',
      'BULLET::::- very old',
    ],
  }
  passages, _ = run(tmp_path, write(tmp_path / 'kilt.jsonl', page))
  assert passages == [
    records.Passage('12#0', 'Tea', 'Tea is a drink.'),
    records.Passage('12#1', 'Tea: History', 'It is old. very old'),
  ]


def test_passages_of_retrieved_questions(tmp_path):
  contexts = [
    {'id': '1', 'title': 'T', 'text': 'one', 'score': 1.0},
    {'id': '2', 'title': 'T', 'text': 'two', 'score': 0.5},
  ]
  path = write(
    tmp_path / 'found.jsonl',
    {'question': 'q', 'ctxs': contexts},
    {'question': 'r', 'ctxs': contexts[:1] + ['nonsense']},
  )
  passages, report = run(tmp_path, path)
  assert [p.id for p in passages] == ['1', '2']
  assert report['duplicates'] == 1 and report['problems'] == {'keys': 1}
  assert 'line 2, ctxs[1]' in report['first_problems'][0]


@pytest.mark.parametrize(
  ('line', 'kind'),
  [
    ('{"id": 1', 'not JSON'),
    ('[1]', 'not an object'),
    ('{"id": 1, "title": "T"}', 'keys'),
    ('{"id": 1, "text": 3}', 'keys'),
    ('{"id": 1, "title": 3, "text": "x"}', 'keys'),
    ('{"id": [1], "text": "x"}', 'keys'),
    ('{"id": 1, "text": " "}', 'empty text'),
    ('{"text": ["a"], "id": 1}', 'keys'),
    ('{"wikipedia_id": 1, "wikipedia_title": "T", "text": [1]}', 'keys'),
    (
      '{"wikipedia_id": 1, "wikipedia_title": "T", "text": ["T"]}',
      'empty text',
    ),
  ],
)
def test_a_wrong_line(line, kind, tmp_path):
  path = tmp_path / 'p.jsonl'
  path.write_text(f'{{"id": 0, "text": "good"}}\n\n{line}\n')
  passages, report = run(tmp_path, path)
  assert [p.text for p in passages] == ['good']
  assert report['problems'] == {kind: 1}
  assert report['first_problems'][0].startswith(f'p.jsonl, line 3: {kind}: ')
  options = prepare.Options(strict=True)
  with pytest.raises(ValueError, match=f'p.jsonl, line 3: {kind}'):
    prepare.prepare([path], tmp_path / 'strict', options)
  assert not (tmp_path / 'strict').exists()
  with pytest.raises(ValueError, match='line 3'):
    prepare.prepare([path], tmp_path / 'out', options)


def test_half_a_surrogate_is_no_character(tmp_path):
  path = tmp_path / 'p.jsonl'
  path.write_text(
    '{"id": "\\ud800", "title": "\\udfff", "text": "x \\ud800"}\n'
  )
  assert run(tmp_path, path)[0] == [records.Passage('?', '?', 'x ?')]


def test_long_passages_are_cut_and_slightly_long_ones_kept(tmp_path):
  path = write(
    tmp_path / 'p.jsonl',
    {'id': 'a', 'title': 'T', 'text': WORDS},
    {'id': 'b', 'title': 'T', 'text': ' '.join(['w'] * 150)},
  )
  passages, _ = run(tmp_path, path)
  assert [p.id for p in passages] == ['a#0', 'a#1', 'a#2', 'b']
  assert [len(p.text.split()) for p in passages] == [100, 100, 50, 150]


def test_new_ids(tmp_path):
  one = write(tmp_path / 'a.jsonl', {'id': 0, 'text': 'a'})
  two = write(tmp_path / 'b.jsonl', {'id': 0, 'text': 'b'}, {'text': 'a'})
  passages, report = run(tmp_path, one, two, new_ids=True)
  assert [(p.id, p.text) for p in passages] == [('0', 'a'), ('1', 'b')]
  assert report['problems'] == {} and report['duplicates'] == 1


MARKDOWN = """---
title: "All about tea"
---
Green tea is **brewed** at `80` degrees, see [here](http://x.y/z).

# Origin #
<!-- hidden -->
Tea came to Europe
in 1610.

Black tea
---------
* strong
| kind | time |
|------|------|
```
# no heading
```
"""


def test_markdown():
  pieces = documents.pieces_of('.md', MARKDOWN.splitlines())
  assert list(splitting.split(pieces, 'file', 100)) == [
    ('All about tea', 'Green tea is brewed at 80 degrees, see here.'),
    ('All about tea: Origin', 'Tea came to Europe in 1610.'),
    ('All about tea: Black tea', 'strong kind time # no heading'),
  ]


def test_the_first_heading_is_the_title():
  pieces = documents.pieces_of('.md', ['# Tea', 'text', '# More', 'end'])
  assert list(splitting.split(pieces, 'file', 100)) == [
    ('Tea', 'text'),
    ('Tea: More', 'end'),
  ]


HTML = """<html><head><title>Coffee &amp; tea</title><style>x{}</style></head>
<body><h1>Coffee</h1><p>Brewed at 95&nbsp;degrees.<p>More <b>bold</b>ly
<script>if (a < b) {}</script><h2>Beans</h2><ul><li>Arabica<li>Robusta</ul>
<p>unfinished <b>tag"""


def test_html():
  pieces = documents.pieces_of('.html', HTML.splitlines())
  assert list(splitting.split(pieces, 'file', 100)) == [
    ('Coffee & tea: Coffee', 'Brewed at 95 degrees. More boldly'),
    ('Coffee & tea: Beans', 'Arabica Robusta unfinished tag'),
  ]


@pytest.mark.parametrize(
  ('name', 'title'),
  [('a/green_tea-notes.md', 'green tea notes'), ('x.tar.txt', 'x'), ('_', '_')],
)
def test_title_of_a_file(name, title):
  assert documents.title_of(name) == title


@pytest.fixture
def folder(tmp_path):
  """Documents, one of every trouble."""
  root = tmp_path / 'docs'
  (root / 'sub' / '.git').mkdir(parents=True)
  (root / 'a.txt').write_text(WORDS)
  (root / 'sub' / 'b.md').write_text('# Bee\nbuzz')
  (root / 'latin.txt').write_bytes('café au lait'.encode('latin-1'))
  (root / 'marked.txt').write_text('maté tea', encoding='utf-16')
  (root / 'unmarked.txt').write_bytes('maté tea'.encode('utf-16-le'))
  (root / 'bom.txt').write_text('green tea', encoding='utf-8-sig')
  (root / 'empty.txt').write_text('\n')
  (root / 'broken.txt.gz').write_bytes(gzip.compress(WORDS.encode())[:-20])
  (root / 'picture.png').write_bytes(b'\x89PNG')
  (root / 'sub' / '.git' / 'c.txt').write_text('hidden')
  return root


def test_a_folder_of_documents(folder, tmp_path):
  passages, report = run(tmp_path, folder)
  assert [(p.id, p.title) for p in passages] == [
    ('a.txt#0', 'a'),
    ('a.txt#1', 'a'),
    ('a.txt#2', 'a'),
    ('bom.txt#0', 'bom'),
    ('marked.txt#0', 'marked'),
    ('sub/b.md#0', 'Bee'),
  ]
  assert passages[3].text == 'green tea' and passages[4].text == 'maté tea'
  assert report['problems'] == {'not text': 3, 'empty text': 1}
  assert report['other_files'] == {'.png': 1}
  told = {text.partition(':')[0]: text for text in report['first_problems']}
  assert 'byte 0xe9' in told['latin.txt'] and '--encoding' in told['latin.txt']
  assert 'NUL' in told['unmarked.txt'] or '0xe9' in told['unmarked.txt']
  assert 'damaged' in told['broken.txt.gz']
  assert 'no text' in told['empty.txt']


def test_the_encoding_that_is_named(folder, tmp_path):
  passages, _ = run(tmp_path, folder / 'latin.txt', encoding='latin-1')
  assert passages[0].text == 'café au lait'
  with pytest.raises(ValueError, match="'klingon'"):
    prepare.Options(encoding='klingon')


def test_a_line_of_another_encoding(tmp_path):
  path = tmp_path / 'p.jsonl'
  path.write_bytes(b'{"text": "one"}\n{"text": "caf\xe9"}\n{"text": "two"}\n')
  passages, report = run(tmp_path, path)
  assert [p.text for p in passages] == ['one', 'two']
  assert report['first_problems'][0].startswith('p.jsonl, line 2: encoding')
  whole = path.read_bytes().replace(b'\xe9', b'e').decode()
  path.write_text(whole, encoding='utf-16')
  report, _ = prepare.prepare([path], tmp_path / 'out16')
  assert report['passages'] == 3


def test_a_damaged_table_is_one_error(tmp_path):
  path = tmp_path / 'p.tsv.gz'
  path.write_bytes(gzip.compress(PSGS.encode() * 500)[:-30])
  with pytest.raises(ValueError, match='is damaged'):
    prepare.prepare([path], tmp_path / 'out')
  assert [p.name for p in tmp_path.iterdir()] == ['p.tsv.gz']


@pytest.mark.parametrize(
  ('name', 'error', 'message'),
  [
    ('absent', FileNotFoundError, 'There is no file or folder'),
    ('x.pdf', ValueError, "suffix '.pdf'; expected one of"),
    ('bare', ValueError, 'no file to read.*1 x .png'),
    ('hollow.txt', ValueError, 'No passage was found in 1 files; 1 problems'),
  ],
)
def test_nothing_to_read(name, error, message, tmp_path):
  (tmp_path / 'x.pdf').write_text('x')
  (tmp_path / 'hollow.txt').write_text(' ')
  (tmp_path / 'bare').mkdir()
  (tmp_path / 'bare' / 'p.png').write_text('x')
  with pytest.raises(error, match=message):
    prepare.prepare([tmp_path / name], tmp_path / 'out')
  assert not (tmp_path / 'out').exists()


def test_prepared_once(folder, tmp_path):
  out = tmp_path / 'out'
  report, new = prepare.prepare([folder], out)
  assert new
  assert prepare.prepare([folder], out) == (report, False)
  (folder / 'new.txt').write_text('something new')
  with pytest.raises(ValueError, match='the files changed.*--force'):
    prepare.prepare([folder], out)
  changed, new = prepare.prepare([folder], out, force=True)
  assert new and changed['passages'] == report['passages'] + 1
  assert changed['fingerprint'] != report['fingerprint']
  with pytest.raises(ValueError, match='words: 100, now 50'):
    prepare.prepare([folder], out, prepare.Options(words=50))


def test_a_folder_of_something_else_is_never_replaced(folder, tmp_path):
  with pytest.raises(ValueError, match='holds no prepared corpus'):
    prepare.prepare([folder], folder / 'sub', force=True)
  assert (folder / 'sub' / 'b.md').exists()


def test_the_layout_is_what_others_read(folder, tmp_path):
  passages, report = run(tmp_path, folder)
  assert records.read_passages(tmp_path / 'out' / 'passages.jsonl') == passages
  opened = store.PassageFile(tmp_path / 'out')
  assert opened.fingerprint == report['fingerprint']
  assert len(opened) == 6 and list(opened) == passages
  assert opened[-1] == passages[-1] and opened[1:3] == passages[1:3]
  with pytest.raises(IndexError):
    opened[6]


def test_a_cut_file_is_noticed(folder, tmp_path):
  run(tmp_path, folder)
  path = tmp_path / 'out' / 'passages.jsonl'
  path.write_bytes(path.read_bytes()[:-5])
  with pytest.raises(ValueError, match='Prepare it again'):
    store.PassageFile(tmp_path / 'out')
  with pytest.raises(FileNotFoundError, match='no prepared corpus'):
    store.PassageFile(folder)


def peak_of(tmp_path, count):
  """Bytes that preparing so many passages of 800 bytes takes at most."""
  path = tmp_path / f'{count}.jsonl'
  write(
    path,
    *(
      {'id': i, 'title': f'Title {i}', 'text': f'{i} ' + 'wordy ' * 130}
      for i in range(count)
    ),
  )
  tracemalloc.start()
  prepare.prepare([path], tmp_path / f'out{count}')
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  return peak


def test_memory_grows_by_hashes_and_places_only(tmp_path):
  grown = peak_of(tmp_path, 3000) - peak_of(tmp_path, 1000)
  assert grown / 2000 < 400
