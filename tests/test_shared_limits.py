"""Gates that processes share by a file."""

import os
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import warnings
from pathlib import Path

import anthropic
import pytest

from claude_client import RateLimit, invoke_claude, invoke_parallel, rate_limits, share_limits
from claude_client._gates.clients import gates_of
from claude_client._gates.rate.gate import RateGate, RatePermit
from claude_client._gates.rate.gates import RateGates
from claude_client._gates.rate.shared import SharedFile
from claude_client.simulator import Limits, Simulator
from simulation import request_of

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no flock")

NUMBERS = len(RateGate().numbers())
KEY = "sk-ant-a-secret-key"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "limits"


@pytest.fixture(autouse=True)
def nothing_shared_afterwards():
    yield
    share_limits(None)


def opened(path):
    return SharedFile(path, NUMBERS)


def gates(path, account="a"):
    return RateGates(account, opened(path))


def admitted(gates):
    return gates.limits(0.0)[0].admitted


def test_gates_of_one_file_are_one_gate(path):
    one, other = gates(path), gates(path)
    for permit in [one.admit(request_of(), 0.0) for _ in range(5)]:
        assert isinstance(permit, RatePermit)
        permit.gate.on_rejection(permit, 0.0, 3.0, {})
    wait = other.admit(request_of(), 1.0)
    assert (wait.seconds, wait.cause) == (2.0, "rate limit")
    assert admitted(one) == admitted(other) == 5


def test_what_one_hears_in_headers_the_other_knows(path):
    one, other = gates(path), gates(path)
    permit = one.admit(request_of(), 0.0)
    limits = {"anthropic-ratelimit-requests-limit": "50", "anthropic-ratelimit-requests-remaining": "30"}
    permit.gate.on_response(permit, 0.0, limits)
    other.would_wait(request_of(), 0.0)
    assert other.limits(0.0)[0].requests_remaining == 30


def test_models_and_accounts_are_apart(path):
    for account in ("a", "b"):
        gates(path, account).admit(request_of(), 0.0)
    fresh = gates(path, "c")
    fresh.would_wait(request_of(), 0.0)
    assert admitted(fresh) == 0
    assert path.stat().st_size > 3 * 4096


def test_the_file_is_its_owners_and_tells_no_key(path, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    share_limits(path)
    with Simulator() as sim:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", sim.base_url)
        invoke_claude("hi", extra_headers={"x-api-key": KEY + "2"})
        invoke_claude("hi")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"sk-ant" not in path.read_bytes()


def test_clients_with_one_key_share_and_others_do_not(path):
    share_limits(path)
    with (
        anthropic.Anthropic(api_key="a") as one,
        anthropic.Anthropic(api_key="a") as same,
        anthropic.Anthropic(api_key="b") as other,
    ):
        gates_of(one)[0].admit(request_of(), 0.0)
        for client, expected in ((same, 1), (other, 0)):
            gates_of(client)[0].would_wait(request_of(), 0.0)
            assert admitted(gates_of(client)[0]) == expected


@pytest.mark.parametrize(
    ("content", "what"), [(b"garbage", "broken"), (b"claude_client limits 1, 3 numbers\n" * 9, "of another version")]
)
def test_a_file_that_is_of_no_use_is_set_aside_with_one_warning(path, caplog, content, what):
    path.write_bytes(content)
    opened(path)
    opened(path)
    (warning,) = caplog.records
    assert what in warning.getMessage()
    assert path.with_name("limits.unusable").read_bytes() == content
    assert path.read_bytes().startswith(b"claude_client limits 1")


def test_what_was_set_aside_before_is_never_overwritten(path):
    for content in (b"first", b"second"):
        path.write_bytes(content)
        opened(path)
    assert path.with_name("limits.unusable").read_bytes() == b"first"
    assert path.with_name("limits.unusable2").read_bytes() == b"second"


def test_what_is_no_regular_file_is_refused_and_left_as_it_is(path):
    os.mkfifo(path)
    mode = path.stat().st_mode
    with pytest.raises(OSError, match="regular file"):
        share_limits(path)
    assert path.stat().st_mode == mode


@pytest.mark.parametrize("how", ["moved", "truncated", "cut"])
def test_a_file_that_is_moved_or_cut_while_in_use_does_not_part_the_processes(path, how):
    one, other = gates(path), gates(path)
    one.admit(request_of(), 0.0)
    if how == "moved":
        path.rename(path.with_name("elsewhere"))
    else:
        os.truncate(path, 0 if how == "truncated" else 100)
    for gate in (one, other, one):
        gate.admit(request_of(), 0.0)
    other.would_wait(request_of(), 0.0)
    assert admitted(one) == admitted(other) == 4


def test_the_same_path_again_changes_nothing_and_costs_no_descriptor(path):
    share_limits(path)
    with anthropic.Anthropic(api_key="a") as client:
        known = gates_of(client)
        before = len([*Path("/proc/self/fd").iterdir()])
        for _ in range(20):
            share_limits(path)
        assert gates_of(client) is known
        for number in range(20):
            share_limits(path.with_name(f"other{number}"))
        assert len([*Path("/proc/self/fd").iterdir()]) <= before + 1


@pytest.mark.parametrize("damage", [b"", b"x", b"\xff" * 4096, b"\x00" * 4096])
def test_a_record_that_is_damaged_begins_anew(path, damage):
    gates(path).admit(request_of(), 0.0)
    with path.open("r+b") as file:
        if damage:
            file.seek(4096 + 60)
            file.write(damage)
        else:
            file.truncate(4096 + 60)
    again = gates(path)
    assert isinstance(again.admit(request_of(), 0.0), RatePermit)
    assert admitted(again) == 1


def test_a_record_of_a_time_to_come_is_of_another_boot(path):
    from claude_client._gates.rate import shared

    gates(path).admit(request_of(), 0.0)
    key, checksum, _ = shared._HEAD.unpack_from(path.read_bytes(), 4096)
    with path.open("r+b") as raw:
        raw.seek(4096)
        raw.write(shared._HEAD.pack(key, checksum, 1e12))
    again = gates(path)
    again.admit(request_of(), 0.0)
    assert admitted(again) == 1


def test_a_file_that_is_removed_is_made_again(path):
    one = gates(path)
    one.admit(request_of(), 0.0)
    path.unlink()
    one.admit(request_of(), 0.0)
    other = gates(path)
    other.would_wait(request_of(), 0.0)
    assert admitted(other) == 2


def test_a_file_that_fails_is_shared_no_longer_and_nothing_is_lost(tmp_path, caplog):
    folder = tmp_path / "folder"
    folder.mkdir()
    one = gates(folder / "limits")
    one.admit(request_of(), 0.0)
    (folder / "limits").unlink()
    folder.rmdir()
    for _ in range(3):
        assert isinstance(one.admit(request_of(), 0.0), RatePermit)
    assert admitted(one) == 4
    (warning,) = caplog.records
    assert "Limits are no longer shared" in warning.getMessage()


def test_a_disk_that_cannot_be_read_costs_no_call(path, caplog, monkeypatch):
    one = gates(path)

    def broken(*_):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pread", broken)
        assert isinstance(one.admit(request_of(), 0.0), RatePermit)
    assert isinstance(one.admit(request_of(), 0.0), RatePermit)
    assert admitted(one) == 2
    assert len(caplog.records) == 1


def test_a_full_disk_costs_no_call(path, caplog, monkeypatch):
    one = gates(path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    for _ in range(3):
        assert isinstance(one.admit(request_of(), 0.0), RatePermit)
    assert admitted(one) == 3
    assert len(caplog.records) == 1


def test_threads_with_gates_of_one_file_lose_nothing(path):
    file = opened(path)
    both = [RateGates("a", file), RateGates("a", file), RateGates("b", file)]
    for gate in both:
        permit = gate.admit(request_of(), 0.0)
        permit.gate.on_response(permit, 0.0, {})
    barrier = threading.Barrier(6)

    def use(gates):
        barrier.wait(10)
        for _ in range(200):
            permit = gates.admit(request_of(), 0.0)
            permit.gate.on_response(permit, 0.0, {})

    threads = [threading.Thread(target=use, args=[both[n % 3]]) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for gate in both:
        gate.would_wait(request_of(), 0.0)
    assert [admitted(gate) for gate in both] == [802, 802, 401]


def script(text, *arguments):
    return [sys.executable, "-c", textwrap.dedent(text), *map(str, arguments)]


KILLED = """
    import os, signal, sys
    from claude_client._gates.rate.gate import RateGate
    from claude_client._gates.rate.shared import SharedFile
    file = SharedFile(sys.argv[1], int(sys.argv[2]))
    file.update(b"k" * 32, RateGate(), os.kill, os.getpid(), getattr(signal, sys.argv[3]))
"""


def test_a_process_that_is_killed_while_it_holds_the_file_blocks_nobody(path):
    one = gates(path)
    killed = subprocess.run(script(KILLED, path, NUMBERS, "SIGKILL"), check=False, timeout=30)
    assert killed.returncode == -signal.SIGKILL
    assert isinstance(one.admit(request_of(), 0.0), RatePermit)


@pytest.mark.once
def test_a_process_that_is_stopped_while_it_holds_the_file_blocks_nobody_for_long(path, caplog):
    one = gates(path)
    one.admit(request_of(), 0.0)
    stopped = subprocess.Popen(script(KILLED, path, NUMBERS, "SIGSTOP"))
    try:
        os.waitid(os.P_PID, stopped.pid, os.WSTOPPED | os.WNOWAIT)
        for _ in range(3):
            assert isinstance(one.admit(request_of(), 0.0), RatePermit)
        assert ["may be stopped" in record.getMessage() for record in caplog.records] == [True]
    finally:
        stopped.send_signal(signal.SIGCONT)
        stopped.wait(30)
    shared_again = threading.Event()

    def ask():
        other = gates(path)
        other.would_wait(request_of(), 0.0)
        while admitted(other) < 3:
            one.limits(0.0)
            one.would_wait(request_of(), 0.0)
            permit = one.admit(request_of(), 0.0)
            if isinstance(permit, RatePermit):
                permit.gate.on_response(permit, 0.0, {})
        shared_again.set()

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    assert shared_again.wait(20)


INTERRUPTED = """
    import random, signal, sys, threading
    sys.path.append(sys.argv[2])
    from simulation import request_of
    from claude_client._gates.rate.gate import RateGate
    from claude_client._gates.rate.gates import RateGates
    from claude_client._gates.rate.shared import SharedFile
    gates = RateGates("a", SharedFile(sys.argv[1], len(RateGate().numbers())))

    def interrupt(*_):
        raise KeyboardInterrupt
    signal.signal(signal.SIGALRM, interrupt)
    chance = random.Random(1)
    interrupted = 0
    while interrupted < 300:
        try:
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0001, 0.002))
            while True:
                gates.limits(0.0) or gates.would_wait(request_of(), 0.0)
        except KeyboardInterrupt:
            interrupted += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        done = threading.Thread(target=gates.would_wait, args=[request_of(), 0.0], daemon=True)
        done.start()
        done.join(10)
        if done.is_alive():
            sys.exit(f"it hangs after {interrupted} interrupts")
    print("fine")
"""


@pytest.mark.once
def test_an_interrupt_at_any_moment_leaves_no_lock_behind(path):
    tried = subprocess.run(
        script(INTERRUPTED, path, Path(__file__).parent), capture_output=True, text=True, timeout=60, check=False
    )
    assert (tried.stdout, tried.stderr) == ("fine\n", "")
    one = gates(path)
    assert isinstance(one.admit(request_of(), 0.0), RatePermit)
    assert not one.of(request_of()).share.func.__self__._alone_until > 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_shares_with_its_parent_and_does_not_keep_its_lock(path):
    share_limits(path)
    with anthropic.Anthropic(api_key="a") as client:
        rates = gates_of(client)[0]
        rates.admit(request_of(), 0.0)
        read, write = os.pipe()
        children = []

        def fork():  # while the parent has the lock
            child = os.fork()
            if child == 0:
                os.read(read, 1)  # until it has not
                gates_of(client)[0].admit(request_of(), 0.0)
                os._exit(0)
            children.append(child)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            rates.of(request_of()).share(rates.of(request_of()), fork)
        os.write(write, b"x")
        assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0
        rates.would_wait(request_of(), 0.0)
        assert admitted(rates) == 2
    os.close(read)
    os.close(write)


CALLS = """
    from claude_client import invoke_parallel, rate_limits
    assert None not in invoke_parallel([{"prompt": f"{i}"} for i in range(20)], max_workers=5)
    print(rate_limits()[0].admitted)
"""


@pytest.mark.long
@pytest.mark.once
def test_processes_that_name_a_file_in_the_environment_act_as_one(path, monkeypatch):
    with Simulator(limits=Limits(requests_per_second=40, request_burst=10)) as sim:
        monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
        monkeypatch.setenv("ANTHROPIC_BASE_URL", sim.base_url)
        monkeypatch.setenv("CLAUDE_CLIENT_LIMITS_FILE", str(path))
        started = [subprocess.Popen(script(CALLS), stdout=subprocess.PIPE, text=True) for _ in range(3)]
        said = [process.communicate(timeout=60)[0] for process in started]
        assert [process.returncode for process in started] == [0, 0, 0]
        rejected = sum(request.outcome == "rejected" for request in sim.requests)
        assert (max(map(int, said)) > 55, rejected <= 8) == (True, True), (said, rejected)


def test_the_environment_counts_where_no_path_is_said(path, monkeypatch, sim):
    monkeypatch.setenv("CLAUDE_CLIENT_LIMITS_FILE", str(path))
    share_limits(path.with_name("said"))
    invoke_claude("hi")
    assert not path.exists()
    share_limits(None)
    invoke_claude("hi")
    assert path.exists()


def test_a_file_of_the_environment_that_cannot_be_used_is_an_error_before_any_request(monkeypatch, sim):
    monkeypatch.setenv("CLAUDE_CLIENT_LIMITS_FILE", "/no/such/folder/limits")
    share_limits(None)
    with pytest.raises(OSError, match="CLAUDE_CLIENT_LIMITS_FILE=/no/such/folder"):
        invoke_claude("hi")
    assert sim.requests == ()


def test_a_file_that_cannot_be_used_is_an_error_before_any_request(tmp_path, sim):
    invoke_claude("hi")
    with pytest.raises(OSError, match="no/such/folder"):
        share_limits(tmp_path / "no/such/folder/limits")
    with pytest.raises(IsADirectoryError):
        share_limits(tmp_path)
    with pytest.raises(TypeError):
        share_limits(5)
    assert rate_limits()[0].admitted == 1  # nothing has changed


def test_a_system_without_flock_gets_a_clear_error(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with pytest.raises(OSError, match="flock"):
        share_limits(path)


def test_what_is_shared_is_seen_in_rate_limits(path, sim):
    share_limits(path)
    invoke_parallel([{"prompt": "a"}, {"prompt": "b"}])
    (limit,) = rate_limits()
    assert isinstance(limit, RateLimit)
    assert limit.admitted == 2
