"""
That the packages work where nothing is installed but `anthropic`. Run by `.ci/run`, not by pytest.

Its argument is `installed`, or the folder to append to `sys.path`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

PACKAGES = ("claude_client", "task_state", "orchestration")
ANSWER = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-6",
    "content": [{"type": "text", "text": "Hello"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 1, "output_tokens": 1},
}


class Api(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        body = json.dumps(ANSWER).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def main(where: str) -> None:
    if where != "installed":
        sys.path.append(where)
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        assert spec is not None, name
        assert spec.origin is not None, name
        assert (Path(spec.origin).parent / "py.typed").is_file(), name

    from claude_client import invoke_claude, invoke_parallel

    with HTTPServer(("127.0.0.1", 0), Api) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        os.environ |= {"ANTHROPIC_API_KEY": "any", "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{server.server_port}"}
        assert invoke_claude("hi") == "Hello"
        assert invoke_parallel([{"prompt": "a"}, {"prompt": "b"}]) == ["Hello", "Hello"]
        server.shutdown()
    says_what_is_missing("claude_client.simulator", "starlette")
    print(f"{', '.join(PACKAGES)}: fine ({where}, {sys.version.split()[0]})")


def says_what_is_missing(module: str, needed: str) -> None:
    said = ""
    try:
        importlib.import_module(module)
    except ImportError as missing:
        said = str(missing)
    assert f"pip install {needed}" in said, said
    assert "orchestrating" not in said, said  # in a registry that is somebody else's


if __name__ == "__main__":
    main(sys.argv[1])
