"""The queue: order, limits, errors, threads. The engine is a stand-in."""

from __future__ import annotations

import concurrent.futures
import threading
import time

import pytest

from btr_jax import config as config_lib
from btr_jax.models import reader_files
from btr_jax.serving import engine as engine_lib
from btr_jax.serving import server as server_lib

TIMINGS = engine_lib.Timings(0.0, 0.0, 0.0, 0.0)


class FakeEngine:
  """Answers a question with itself; `bad` ones are refused."""

  def __init__(self, **config):
    self.config = config_lib.EngineConfig(**config)
    self.batches = []
    self.log = []
    self.gate = threading.Event()
    self.gate.set()
    self.warm = False

  def warm_up(self):
    self.warm = True
    return 0.0

  def start(self, asked):
    if 'bad' in asked:
      raise ValueError('The question is bad.')
    self.batches.append(list(asked))
    self.log.append(('start', len(self.batches)))
    return len(self.batches), asked

  def finish(self, started):
    number, asked = started
    assert self.gate.wait(20)
    self.log.append(('finish', number))
    if 'breaks' in asked:
      raise RuntimeError('The device is gone.')
    return [engine_lib.Answer(a, a.upper(), (), TIMINGS) for a in asked]


def test_answers_stand_in_the_order_of_the_questions():
  engine = FakeEngine(max_batch=4, max_queue=3)
  questions = [f'q{i}' for i in range(50)]
  with server_lib.Server(engine) as server:
    assert engine.warm
    found = server.answer(questions)
  assert [a.text for a in found] == [q.upper() for q in questions]
  assert max(map(len, engine.batches)) <= 4
  assert [q for batch in engine.batches for q in batch] == questions


def test_what_waits_is_read_together():
  engine = FakeEngine(max_batch=8, wait_seconds=5.0)
  with server_lib.Server(engine) as server:
    futures = [server.submit(f'q{i}') for i in range(8)]
    assert [f.result(20).text for f in futures] == [f'Q{i}' for i in range(8)]
  assert engine.batches == [[f'q{i}' for i in range(8)]]


def test_the_next_batch_starts_before_the_last_is_finished():
  engine = FakeEngine(max_batch=1)
  engine.gate.clear()
  with server_lib.Server(engine) as server:
    futures = [server.submit(f'q{i}') for i in range(2)]
    while len(engine.batches) < 2:
      time.sleep(0.001)
    engine.gate.set()
    concurrent.futures.wait(futures, 20)
  assert engine.log[:2] == [('start', 1), ('start', 2)]


def test_a_full_queue_says_so_and_goes_on():
  engine = FakeEngine(max_batch=1, max_queue=2)
  engine.gate.clear()
  server = server_lib.Server(engine, warm_up=False)
  assert not engine.warm
  accepted = []
  with pytest.raises(
    server_lib.QueueFullError, match='2 questions are waiting'
  ):
    for i in range(20):
      accepted.append(server.submit(f'q{i}', timeout=0.05))
  # Those that the threads hold, and those in the queue.
  assert 2 <= len(accepted) <= 6
  # Whoever is ready to wait gets a place.
  late = concurrent.futures.ThreadPoolExecutor(1).submit(
    server.submit, 'late', timeout=None
  )
  assert not late.done()
  engine.gate.set()
  assert late.result(20).result(20).text == 'LATE'
  server.close()
  assert [f.result(0).text for f in accepted] == [
    f'Q{i}' for i in range(len(accepted))
  ]


def test_an_error_is_of_its_own_question_alone():
  engine = FakeEngine(max_batch=3, wait_seconds=5.0)
  with server_lib.Server(engine) as server:
    futures = [server.submit(q) for q in ('a', 'bad', 'b')]
    assert futures[0].result(20).text == 'A'
    assert futures[2].result(20).text == 'B'
    with pytest.raises(ValueError, match='is bad'):
      futures[1].result(20)
    broken = [server.submit(q) for q in ('breaks', 'c', 'd')]
    for future in broken:
      with pytest.raises(RuntimeError, match='device is gone'):
        future.result(20)
    # The server lives on.
    assert [a.text for a in server.answer(['e', 'f', 'g'])] == ['E', 'F', 'G']


def test_closing_answers_what_waits_and_refuses_the_rest():
  engine = FakeEngine(max_batch=2)
  server = server_lib.Server(engine)
  futures = [server.submit(f'q{i}') for i in range(7)]
  server.close()
  server.close()  # Twice does no harm.
  assert all(f.done() for f in futures)
  with pytest.raises(RuntimeError, match='closed'):
    server.submit('late')


def test_a_cancelled_question_is_not_read():
  engine = FakeEngine(max_batch=1)
  engine.gate.clear()
  with server_lib.Server(engine) as server:
    futures = [server.submit(f'q{i}') for i in range(6)]
    assert futures[-1].cancel()
    engine.gate.set()
  assert ['q5'] not in engine.batches and ['q4'] in engine.batches


def test_many_threads_and_the_real_engine(tiny_family, tiny_records):
  """Each gets its own answer, as if it had asked alone."""
  reader = reader_files.load_reader(tiny_family, mode='joint')
  engine = engine_lib.Engine(
    reader,
    config=config_lib.EngineConfig(max_batch=4, length_buckets=()),
  )
  expected = {r.question: engine.read([r])[0].text for r in tiny_records}
  assert len(set(expected.values())) > 3
  with (
    server_lib.Server(engine, warm_up=False) as server,
    concurrent.futures.ThreadPoolExecutor(6) as pool,
  ):
    found = list(
      pool.map(
        lambda r: server.submit(r, timeout=None).result(60), tiny_records * 4
      )
    )
  for answer, record in zip(found, tiny_records * 4, strict=True):
    assert answer.question == record.question
    assert answer.text == expected[record.question]
