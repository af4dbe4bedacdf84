"""
The command line: ``python -m claude_client.simulator``.

It prints one line to evaluate in a shell, and serves until Ctrl-C, SIGTERM or SIGHUP.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from . import Limits, Simulator

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(arguments: Sequence[str] | None = None, prog: str = "python -m claude_client.simulator") -> None:
    """Run a simulator as the command line, or *arguments*, of *prog* say."""
    parser = _parser(prog)
    options = parser.parse_args(arguments)
    # Blocked before the first thread starts, signals wait for sigwait: no handler, no traceback.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    try:
        started = _simulator(options).start()
    except (ValueError, OSError, OverflowError, ImportError) as mistake:
        parser.error(str(mistake))
    with started as sim:
        sys.stdout.write(f"{_exports(sim)}\n")
        sys.stdout.flush()
        signal.sigwait(_STOPPING)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description="A loopback stand-in for the Claude Messages API.")
    add = parser.add_argument
    add("--port", type=int, default=8080, help="0 takes a free one (default: 8080)")
    add("--tls", action="store_true", help="serve https with a throw-away certificate")
    add("--latency", type=float, default=0.0, metavar="SECONDS", help="time to the first byte")
    add("--tokens-per-second", type=float, metavar="N", help="pace of the answers (default: as fast as can be)")
    add("--ping-interval", type=float, metavar="SECONDS", help="time between pings in a stream with nothing to say")
    add("--model", action="append", default=[], metavar="NAME", help="serve this model too; may be repeated")
    add("--context-window", type=int, metavar="TOKENS", help="room for a prompt and its answer (default: the model's)")
    add("--requests-per-second", type=float, metavar="N", help="allow so many requests (default: any number)")
    add("--burst", type=int, metavar="N", help="allow so many at once (default: one second's worth)")
    add("--input-tokens-per-second", type=float, metavar="N", help="allow so many input tokens")
    add("--input-token-burst", type=int, metavar="N", help="allow so many at once")
    add("--no-limit-headers", action="store_true", help="send no anthropic-ratelimit-* headers")
    add("--no-retry-after", action="store_true", help="do not say when to come back")
    add("--unlucky", type=float, default=0.0, metavar="SHARE", help="reject so many, whatever their pace")
    add("--overloaded-for", type=float, metavar="SECONDS", help="begin with an outage of that length")
    return parser


def _simulator(options: argparse.Namespace) -> Simulator:
    limits = Limits(
        requests_per_second=options.requests_per_second,
        request_burst=options.burst,
        input_tokens_per_second=options.input_tokens_per_second,
        input_token_burst=options.input_token_burst,
        headers=not options.no_limit_headers,
        retry_after=not options.no_retry_after,
        unlucky=options.unlucky,
        overloaded_for=options.overloaded_for,
    )
    return Simulator(
        port=options.port,
        tls=options.tls,
        latency=options.latency,
        tokens_per_second=options.tokens_per_second,
        ping_interval=options.ping_interval,
        limits=limits,
        models=options.model,
        context_window=options.context_window,
    )


def _exports(sim: Simulator) -> str:
    authority = f" SSL_CERT_FILE={sim.ca_file}" if sim.ca_file else ""
    return f"export ANTHROPIC_API_KEY=simulated ANTHROPIC_BASE_URL={sim.base_url}{authority}"


if __name__ == "__main__":
    main()
