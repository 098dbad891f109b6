"""Threads that share work, in one process and in those forked from it."""

from __future__ import annotations

import os
import threading

import pytest
import torch

from pikvpress.kernels.threads import CREW, ROWS, Crew


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("pieces", [0, 1, 2, 50])
def test_every_piece_is_worked_on_once(three_threads, pieces):
    done = []
    Crew().run(done.append, pieces)
    assert sorted(done) == list(range(pieces))


def test_as_many_threads_as_torch_has_work_at_the_same_time(three_threads):
    together = threading.Barrier(3, timeout=20)
    seen = set()

    def work(piece):
        together.wait()  # breaks if fewer than three are here at once
        seen.add(threading.get_ident())

    Crew().run(work, 3)
    assert len(seen) == 3 and threading.get_ident() in seen


@pytest.mark.parametrize("rows", [0, 1, ROWS, 2 * ROWS + 5])
def test_stretches_of_rows_follow_each_other(three_threads, rows):
    done = []
    Crew().run_rows(lambda first, last: done.append((first, last)), rows)
    assert [row for first, last in sorted(done) for row in range(first, last)] == list(range(rows))
    assert all(last - first <= ROWS for first, last in done)


def test_fewer_threads_may_be_asked_for(three_threads):
    seen = set()
    Crew().run(lambda piece: seen.add(threading.get_ident()), 50, threads=1)
    assert seen == {threading.get_ident()}


def test_an_error_of_any_thread_is_raised(three_threads):
    def work(piece):
        raise ValueError(f"piece {piece}")

    with pytest.raises(ValueError, match="piece"):
        Crew().run(work, 9)


def test_several_callers_share_a_crew(three_threads):
    crew, done = Crew(), [[] for _ in range(4)]
    callers = [threading.Thread(target=crew.run, args=(one.append, 30)) for one in done]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert [sorted(one) for one in done] == [list(range(30))] * 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_starts_its_own_threads(three_threads):
    CREW.run(lambda piece: None, 9)  # the parent has threads, of which the child has none
    child = os.fork()
    if child == 0:
        done = []
        CREW.run(done.append, 9)
        os._exit(0 if sorted(done) == list(range(9)) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
