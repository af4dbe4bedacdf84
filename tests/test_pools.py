"""A transport's connections in several pools, over pools of httpcore's that are made for the test."""

import threading

import pytest

from claude_client._sdk.pools import Pools

pytestmark = pytest.mark.once

LONG = 20  # seconds after which a test gives up


class Pool:
    """A pool that answers, with itself, once so many threads have asked it and its like."""

    def __init__(self, connections, together):
        self._max_connections = connections
        self._connections, self._requests = [], []
        self._optional_thread_lock = threading.RLock()
        self._together = together
        self.closed = False

    def handle_request(self, request):
        self._together.wait(LONG)
        return self

    def __enter__(self):
        return self

    def close(self):
        self.closed = True


def answered(pools, threads):
    """What so many threads that ask at once are answered with."""
    answers = []
    asking = [threading.Thread(target=lambda: answers.append(pools.handle_request(None))) for _ in range(threads)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join(LONG)
    return answers


@pytest.mark.parametrize(
    ("connections", "threads", "limits_and_requests"),
    [
        (1000, 50, [(1000, 50)]),
        (1000, 130, [(50, 30), (50, 50), (50, 50)]),
        (120, 130, [(20, 20), (50, 50), (50, 60)]),
        (20, 30, [(20, 30)]),
    ],
)
def test_a_pool_serves_fifty_threads_and_all_together_have_no_more_connections(
    connections, threads, limits_and_requests
):
    answers = answered(Pools(Pool(connections, threading.Barrier(threads))), threads)
    assert sorted((pool._max_connections, answers.count(pool)) for pool in {*answers}) == limits_and_requests


def test_a_thread_that_ends_leaves_its_place_to_the_next():
    pools = Pools(Pool(1000, threading.Barrier(40)))
    assert len({*answered(pools, 40), *answered(pools, 40), *answered(pools, 40)}) == 1


def test_all_pools_are_closed():
    pools = Pools(Pool(1000, threading.Barrier(51)))
    used = {*answered(pools, 51)}
    pools.close()
    assert [pool.closed for pool in used] == [True, True]


def test_the_pool_is_entered_and_left_with_its_transport():
    inner = Pool(1000, threading.Barrier(1))
    with Pools(inner) as pools:
        assert pools.handle_request(None) is inner
    assert inner.closed
