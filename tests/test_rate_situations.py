"""The rate gate in every situation that a limit, bad luck and other users make of calls, simulated."""

from dataclasses import replace

import pytest

from simulation import Bucket, Concurrent, NoGate, Setting, Simulation, Unlucky, Window, outcome

pytestmark = pytest.mark.once

SLOW = (1.0, 3.0)

# name: (server, setting, seconds of the ideal or None for that of a pool, most of that, most rejections)
SITUATIONS = {
    "a limit": (lambda: Bucket(20, 5), Setting(), 14.75, 1.15, 15),
    "a limit for slow calls": (lambda: Bucket(2, 2), Setting(calls=60, latency=SLOW), 31, 1.2, 20),
    "a fixed window": (lambda: Window(40, 10), Setting(calls=200), 40.5, 1.3, 30),
    "a limit that changes": (lambda: Bucket(20, 5, schedule=[(5, 5), (15, 40)]), Setting(calls=400), 21, 1.45, 60),
    "5 % unlucky": (lambda: Unlucky(0.05), Setting(), None, 1.5, None),
    "11 % unlucky": (lambda: Unlucky(0.11), Setting(), None, 1.5, None),
    "30 % unlucky": (lambda: Unlucky(0.30), Setting(), None, 2.0, None),
    "11 % unlucky, slow calls": (lambda: Unlucky(0.11), Setting(latency=SLOW), None, 1.25, None),
    "a limit, and 10 % unlucky": (lambda: Unlucky(0.10, Bucket(20, 5)), Setting(), 14.75, 1.4, 80),
    "so many at once": (lambda: Concurrent(4), Setting(), 3.75, 1.8, 40),
    "so many slow ones at once": (lambda: Concurrent(4), Setting(calls=100, latency=SLOW), 50, 1.3, 150),
    "two processes": (lambda: Bucket(20, 5), Setting(calls=150, processes=2), 14.75, 1.35, 70),
    "four processes": (lambda: Bucket(20, 5), Setting(calls=75, processes=4), 14.75, 1.4, 140),
    "five processes": (lambda: Bucket(20, 5), Setting(calls=100, processes=5), 24.75, 1.4, 300),
}
WITH_HEADERS = {
    **SITUATIONS,
    "a limit": (lambda: Bucket(20, 5), Setting(), 14.75, 1.1, 5),
    "a limit that changes": (lambda: Bucket(20, 5, schedule=[(5, 5), (15, 40)]), Setting(calls=400), 21, 1.15, 15),
    "a limit, and 10 % unlucky": (lambda: Unlucky(0.10, Bucket(20, 5)), Setting(), 14.75, 1.25, 60),
    "two processes": (lambda: Bucket(20, 5), Setting(calls=150, processes=2), 14.75, 1.15, 25),
    "four processes": (lambda: Bucket(20, 5), Setting(calls=75, processes=4), 14.75, 1.2, 60),
    "five processes": (lambda: Bucket(20, 5), Setting(calls=100, processes=5), 24.75, 1.15, 90),
    "four processes and a stock": (lambda: Bucket(20, 50), Setting(calls=100, processes=4), 17.5, 1.15, 100),
}


def check(server, setting, ideal, target, most):
    got = outcome(server, setting)
    best = ideal or outcome(server, replace(setting, gate=NoGate)).seconds
    assert got.seconds <= target * best, (got, got.seconds / best)
    assert got.lost <= 0.004 * 7 * setting.calls * setting.processes
    if most is not None:
        assert got.rejections <= most, got


@pytest.mark.parametrize("situation", SITUATIONS)
def test_without_headers(situation):
    server, setting, *bounds = SITUATIONS[situation]
    check(server, replace(setting, headers=""), *bounds)


@pytest.mark.parametrize("headers", ["late", "early"])
@pytest.mark.parametrize("situation", WITH_HEADERS)
def test_with_headers(situation, headers):
    server, setting, *bounds = WITH_HEADERS[situation]
    check(server, replace(setting, headers=headers), *bounds)


@pytest.mark.parametrize(("headers", "most", "rejections"), [("late", 1.08, 5), ("early", 1.08, 5), ("", 1.15, 16)])
def test_processes_that_share_their_gate(headers, most, rejections):
    setting = Setting(calls=75, processes=4, shared=True, headers=headers)
    check(lambda: Bucket(20, 5), setting, 14.75, most, rejections)


SOME = (500, 1500)
VARIED = Setting(latency=(0.05, 0.2), network=(0.001, 0.004))


def worst(server, setting, seeds):
    """The longest time and the most rejections of some runs. None of them may lose a call."""
    runs = [Simulation(server(), setting, seed).run() for seed in range(seeds)]
    assert not any(run.lost for run in runs)
    return max(run.time for run in runs), max(run.rejections for run in runs)


def check_worst(server, setting, ideal, most, rejections, seeds=4):
    time, rejected = worst(server, setting, seeds)
    assert (time <= most * ideal, rejected <= rejections) == (True, True), (time / ideal, rejected)


@pytest.mark.parametrize("workers", [5, 10, 50])
@pytest.mark.parametrize("headers", ["late", "early"])
def test_headers_keep_to_a_request_limit_at_the_worst(headers, workers):
    setting = replace(VARIED, headers=headers, workers=workers)
    check_worst(lambda: Bucket(20, 5), setting, 14.75, 1.12, 5)


def test_the_figure_for_headers_has_room():
    check_worst(lambda: Bucket(20, 5), VARIED, 14.75, 1.09, 5, seeds=15)


@pytest.mark.parametrize(
    "options", [{}, {"rounded": True}, {"guess": 0.5}, {"headers": "early", "rounded": True}, {"workers": 50}]
)
def test_headers_keep_to_a_token_limit_at_the_worst(options):
    setting = replace(VARIED, sizes=SOME, **options)
    check_worst(lambda: Bucket(20_000, 10_000, name="input-tokens"), setting, 290_000 / 20_000, 1.15, 5)


@pytest.mark.parametrize(
    ("server", "options", "ideal", "seeds"),
    [
        (lambda: Bucket(2, 5), {}, 295 / 2, 2),
        (lambda: Bucket(20, 50), {}, 250 / 20, 5),
        (lambda: Bucket(20, 50), {"foreign": 6.0}, 250 / 14, 5),
        (lambda: Bucket(2000, 10_000, name="input-tokens"), {"sizes": SOME}, 290_000 / 2000, 2),
    ],
)
def test_headers_keep_to_other_limits_at_the_worst(server, options, ideal, seeds):
    check_worst(server, replace(VARIED, **options), ideal, 1.15, 6, seeds)


@pytest.mark.parametrize("headers", ["late", "early"])
@pytest.mark.parametrize(
    ("rate", "burst", "options", "most"),
    [
        (40, 10, {"calls": 400, "workers": 50}, 1.1),
        (100, 10, {"calls": 600, "workers": 60}, 1.2),
        (200, 10, {"calls": 1000, "workers": 100}, 1.6),
        (100, 100, {"calls": 600, "workers": 60}, 1.1),
    ],
)
def test_more_may_be_under_way_than_a_bucket_holds(rate, burst, options, most, headers):
    setting = Setting(latency=(0.3, 0.36), network=(0.001, 0.004), headers=headers, **options)
    check_worst(lambda: Bucket(rate, burst), setting, (options["calls"] - burst) / rate + 0.3, most, 5, seeds=3)


@pytest.mark.parametrize("retry_after", [True, False])
@pytest.mark.parametrize("workers", [10, 50])
def test_rejections_alone_keep_to_a_limit_at_the_worst(workers, retry_after):
    setting = replace(VARIED, headers="", workers=workers, retry_after=retry_after)
    check_worst(lambda: Bucket(20, 5), setting, 14.75, 1.15, 15)


@pytest.mark.parametrize("retry_after", [True, False])
def test_rejections_alone_keep_to_a_token_limit_at_the_worst(retry_after):
    setting = replace(VARIED, headers="", sizes=SOME, retry_after=retry_after)
    check_worst(lambda: Bucket(20_000, 10_000, name="input-tokens"), setting, 290_000 / 20_000, 1.4, 60)


@pytest.mark.parametrize("headers", ["", "late"])
@pytest.mark.parametrize("burst", [1, 2, 3])
def test_tiny_stocks_lose_nothing(burst, headers):
    check_worst(lambda: Bucket(20, burst), replace(VARIED, headers=headers), (300 - burst) / 20, 1.6, 20, seeds=3)


@pytest.mark.parametrize("headers", ["", "late"])
def test_a_prompt_that_is_always_rejected_pays_with_its_own_retries_and_slows_nobody(headers):
    poisoned = Setting(calls=61, workers=5, poisoned=1, headers=headers)
    runs = [Simulation(Unlucky(0), poisoned, seed).run() for seed in range(12)]
    assert {(run.lost, run.rejections) for run in runs} == {(1, 3)}
    assert max(run.time for run in runs) < 2.1  # of which two pauses of a second are the prompt's own
