"""Calls that meet limits, simulated: real gates, servers of a few lines, and a clock that jumps from event to event."""

import heapq
import itertools
import math
import random
import statistics
from collections import deque
from dataclasses import dataclass, replace

from claude_client._gates.gate import Wait
from claude_client._gates.rate.gate import RateGate
from claude_client._values.request import Request
from claude_client._values.retry import RetryPolicy

PATIENT = RetryPolicy(longest_retry_after=math.inf)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def request_of(tokens=1, retry=PATIENT, refused=0):
    return Request(model="m", max_tokens=1, messages=[], retry=retry, refused=refused, system="x" * 4 * tokens)


class Bucket:
    """Refills at *rate* per second up to *size*; `schedule` [(from second, rate)] changes the rate."""

    def __init__(self, rate, size, *, name="requests", retry_after=1.0, schedule=()):
        self.rate, self.size, self.name, self.retry_after = rate, size, name, retry_after
        self.schedule = deque(schedule)
        self.at, self.level = 0.0, float(size)

    def admit(self, tokens, now, chance):
        """None, or the seconds after which to come again."""
        self.refill(now)
        cost = tokens if self.name == "input-tokens" else 1
        if self.level < min(cost, self.size):
            return self.retry_after
        self.level = max(0.0, self.level - cost)
        return None

    def refill(self, now):
        while self.schedule and self.schedule[0][0] <= now:
            self.rate = self.schedule.popleft()[1]
        self.level = min(self.size, self.level + (now - self.at) * self.rate)
        self.at = now

    def finished(self):
        pass

    def headers(self, now):
        self.refill(now)
        prefix = f"anthropic-ratelimit-{self.name}"
        return {f"{prefix}-limit": str(self.size), f"{prefix}-remaining": str(math.floor(self.level + 1e-9))}


class Window:
    """Lets in *most* requests in each window of *length* seconds; the pause is the rest of the window."""

    def __init__(self, most, length):
        self.most, self.length, self.window, self.used = most, length, 0, 0

    def admit(self, tokens, now, chance):
        self.turn(now)
        if self.used < self.most:
            self.used += 1
            return None
        return (self.window + 1) * self.length - now

    def turn(self, now):
        if (window := int(now // self.length)) != self.window:
            self.window, self.used = window, 0

    def finished(self):
        pass

    def headers(self, now):
        self.turn(now)
        return {
            "anthropic-ratelimit-requests-limit": str(self.most),
            "anthropic-ratelimit-requests-remaining": str(self.most - self.used),
        }


class Concurrent:
    """Lets in a request while fewer than *most* are under way. Headers know nothing of that."""

    def __init__(self, most):
        self.most, self.under_way = most, 0

    def admit(self, tokens, now, chance):
        if self.under_way < self.most:
            self.under_way += 1
            return None
        return 1.0

    def finished(self):
        self.under_way -= 1

    def headers(self, now):
        return {"anthropic-ratelimit-requests-limit": "4000", "anthropic-ratelimit-requests-remaining": "3990"}


class Unlucky:
    """Rejects a share of all requests whatever their pace, as others use the same limit; and what *inside* rejects."""

    def __init__(self, share, inside=None):
        self.share, self.inside = share, inside or Bucket(4000, 4000)

    def admit(self, tokens, now, chance):
        return 1.0 if chance.random() < self.share else self.inside.admit(tokens, now, chance)

    def finished(self):
        self.inside.finished()

    def headers(self, now):
        return self.inside.headers(now)


@dataclass(frozen=True)
class Setting:
    """
    What a simulation is of.

    Args:
        calls, workers: Of each of the *processes*. *shared*: all of them have one gate.

        latency, network: Seconds, from and to.

        headers: Whether answers have any, and if so whether they tell of when the answer begins, or of when it was let
            in (``early``). *rounded*: tokens that remain are told in thousands.

        sizes: Tokens of the requests, from and to. *guess*: the estimate of them, as a factor.

        foreign: Requests per second that others take from the same limit.

        retry_after: Whether a rejection says when to come back.

        poisoned: How many calls the server always rejects.
    """

    calls: int = 300
    workers: int = 10
    processes: int = 1
    shared: bool = False
    latency: tuple = (0.05, 0.05)
    network: tuple = (0.001, 0.005)
    headers: str = "late"
    rounded: bool = False
    sizes: tuple = (10, 10)
    guess: float = 1.0
    foreign: float = 0.0
    retry_after: bool = True
    poisoned: int = 0
    retry: RetryPolicy = PATIENT
    gate: type = RateGate


class NoGate:
    """Lets all pass, as an SDK client does whose calls retry often enough."""

    def __init__(self, **_):
        pass

    def admit(self, request, now):
        return self

    def on_response(self, *_):
        pass

    def record_usage(self, *_):
        pass

    def on_rejection(self, *_):
        return False


class Simulation:
    """The run of one *setting* against *server*, by one *seed*."""

    def __init__(self, server, setting, seed):
        self.server, self.setting, self.chance = server, setting, random.Random(seed)
        self.clock = Clock()
        self.events, self.order = [], itertools.count()
        self.rejections = self.lost = 0
        gates = [setting.gate(chance=self.chance.random) for _ in range(1 if setting.shared else setting.processes)]
        self.processes = [_Process(self, gates[number % len(gates)]) for number in range(setting.processes)]

    @property
    def time(self):
        return self.clock.now

    def run(self, most=3000.0):
        for process in self.processes:
            self.later(0.0, process.ask)
        if self.setting.foreign:
            self.later(0.0, self.intrude)
        while any(process.unanswered for process in self.processes):
            self.clock.now, _, event, args = heapq.heappop(self.events)
            assert self.time < most, "it does not end"
            event(*args)
        return self

    def later(self, seconds, event, *args):
        heapq.heappush(self.events, (self.time + seconds, next(self.order), event, args))

    def travel(self, event, *args):
        self.later(self.chance.uniform(*self.setting.network), event, *args)

    def intrude(self):
        self.server.admit(1, self.time, self.chance)
        self.later(self.chance.uniform(0, 2 / self.setting.foreign), self.intrude)

    def headers(self):
        if not self.setting.headers:
            return {}
        headers = self.server.headers(self.time)
        name = "anthropic-ratelimit-input-tokens-remaining"
        if self.setting.rounded and name in headers:
            headers[name] = str(round(int(headers[name]), -3))
        return headers


class _Process:
    """The calls of one process, on its workers: as the engine does, those that wait for nothing go first."""

    def __init__(self, simulation, gate):
        self.simulation, self.gate, self.setting = simulation, gate, simulation.setting
        sizes = [simulation.chance.randint(*self.setting.sizes) for _ in range(self.setting.calls)]
        self.sizes = sizes
        self.requests = [request_of(int(size * self.setting.guess), self.setting.retry) for size in sizes]
        self.ready = [*range(len(sizes))]
        self.failures = [0] * len(sizes)
        self.idle, self.unanswered = self.setting.workers, len(sizes)
        self.alarm = -1.0

    def ask(self):
        simulation = self.simulation
        while self.idle and self.ready:
            call = self.ready[0]
            got = self.gate.admit(self.requests[call], simulation.time)
            if isinstance(got, Wait):
                if not simulation.time < self.alarm <= simulation.time + got.seconds:
                    self.alarm = simulation.time + got.seconds
                    simulation.later(got.seconds, self.ask)
                return
            heapq.heappop(self.ready)
            self.idle -= 1
            simulation.travel(self.arrive, call, got)

    def arrive(self, call, permit):
        simulation = self.simulation
        poisoned = call < self.setting.poisoned
        pause = 1.0 if poisoned else simulation.server.admit(self.sizes[call], simulation.time, simulation.chance)
        if pause is None:
            seconds = simulation.chance.uniform(*self.setting.latency)
            simulation.later(seconds, self.answer, call, permit, simulation.headers())
        else:
            simulation.travel(self.reject, call, permit, pause, simulation.headers())

    def answer(self, call, permit, headers):
        self.simulation.server.finished()
        late = self.setting.headers != "early"
        self.simulation.travel(self.finish, call, permit, self.simulation.headers() if late else headers)

    def finish(self, call, permit, headers):
        self.gate.on_response(permit, self.simulation.time, headers)
        self.gate.record_usage(permit, self.sizes[call])
        self.unanswered -= 1
        self.idle += 1
        self.ask()

    def reject(self, call, permit, pause, headers):
        simulation = self.simulation
        simulation.rejections += 1
        said = pause if self.setting.retry_after else None
        self.failures[call] += self.gate.on_rejection(permit, simulation.time, said, headers)
        request = self.requests[call]
        self.requests[call] = replace(request, refused=request.refused + 1)
        self.idle += 1
        if self.failures[call] > request.retry.max_retries:
            simulation.lost += 1
            self.unanswered -= 1
        else:
            simulation.later(pause if said else min(0.5 * 2**request.refused, 8), self.again, call)
        self.ask()

    def again(self, call):
        heapq.heappush(self.ready, call)
        self.ask()


@dataclass(frozen=True)
class Outcome:
    """The medians of some runs, and the worst: seconds, rejections, and calls that were lost."""

    seconds: float
    worst: float
    rejections: float
    lost: int


def outcome(server, setting, seeds=range(7)):
    """The outcome of *setting* against fresh servers, as many as there are *seeds*."""
    runs = [Simulation(server(), setting, seed).run() for seed in seeds]
    return Outcome(
        statistics.median(run.time for run in runs),
        max(run.time for run in runs),
        statistics.median(run.rejections for run in runs),
        sum(run.lost for run in runs),
    )
