import json
import os
import subprocess
import sys
import traceback
from pathlib import Path

import anthropic
import pytest

import claude_client
from claude_client import ClaudeInvocationError, has_credentials, invoke_claude, invoke_parallel
from claude_client._sdk.credentials import find_credentials
from helpers import KEY, reply

MALFORMED = {
    "space inside": "sk-ant-secret part2-secret",
    "newline inside": "sk-ant-secret\npart2-secret",
    "control character": "sk-ant-secret\x07part2-secret",
    "not ASCII": "sk-ant-secret\u20acpart2-secret",
    "delete": "sk-ant-secret\x7fpart2-secret",
}


@pytest.fixture
def no_key(monkeypatch):
    monkeypatch.delenv("ANTHROPIC_API_KEY")


def sent_key(api) -> str:
    headers = api.requests[-1].headers
    return headers.get("x-api-key") or headers["authorization"].removeprefix("Bearer ")


def test_the_environment_goes_before_files(api):
    Path("ANTHROPIC_API_KEY.txt").write_text("sk-from-file")
    api.answers(reply())
    invoke_claude("hi")
    assert sent_key(api) == KEY


def test_a_key_is_read_from_the_text_file(api, no_key):
    Path("ANTHROPIC_API_KEY.txt").write_text("\ufeff  sk-from-file \n", encoding="utf-8")
    api.answers(reply())
    invoke_claude("hi")
    assert sent_key(api) == "sk-from-file"


def test_a_key_is_read_from_the_json_file(api, no_key):
    Path("API_CREDENTIALS.json").write_text(json.dumps({"other": 1, "anthropic_api_key": " sk-from-json\n"}))
    api.answers(reply())
    invoke_claude("hi")
    assert sent_key(api) == "sk-from-json"


def test_the_text_file_goes_before_the_json_file(no_key):
    Path("ANTHROPIC_API_KEY.txt").write_text("sk-from-file")
    Path("API_CREDENTIALS.json").write_text(json.dumps({"anthropic_api_key": "sk-from-json"}))
    assert find_credentials() == {"api_key": "sk-from-file"}


def test_the_project_folder_goes_before_the_current_one(no_key, tmp_path):
    project = tmp_path / "project"
    project.mkdir()
    (project / "ANTHROPIC_API_KEY.txt").write_text("sk-project")
    Path("ANTHROPIC_API_KEY.txt").write_text("sk-here")
    assert find_credentials([project, Path()]) == {"api_key": "sk-project"}


@pytest.mark.parametrize("name", ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"])
def test_a_key_from_the_environment_is_stripped(api, no_key, monkeypatch, name):
    monkeypatch.setenv(name, f"  {KEY}\n")
    api.answers(reply())
    invoke_claude("hi")
    assert sent_key(api) == KEY


def test_a_key_beside_a_token_is_the_one_that_counts(monkeypatch):
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "token\n")
    assert find_credentials() == {"api_key": KEY}


def test_a_profile_named_in_the_environment_goes_before_files(no_key, monkeypatch):
    Path("ANTHROPIC_API_KEY.txt").write_text("sk-from-file")
    monkeypatch.setenv("ANTHROPIC_PROFILE", "work")
    assert find_credentials() == {}


def test_a_workload_identity_goes_before_files(no_key, monkeypatch):
    Path("ANTHROPIC_API_KEY.txt").write_text("sk-from-file")
    for name in ("FEDERATION_RULE_ID", "ORGANIZATION_ID", "IDENTITY_TOKEN"):
        monkeypatch.setenv(f"ANTHROPIC_{name}", "x")
    assert find_credentials() == {}


def test_half_a_workload_identity_does_not_go_before_files(no_key, monkeypatch):
    Path("ANTHROPIC_API_KEY.txt").write_text("sk-from-file")
    monkeypatch.setenv("ANTHROPIC_FEDERATION_RULE_ID", "rule")
    assert find_credentials() == {"api_key": "sk-from-file"}


def test_no_credentials_names_every_place_looked_at(api, no_key):
    with pytest.raises(ValueError) as caught:
        invoke_claude("hi")
    for place in [
        "ANTHROPIC_API_KEY,",
        "ANTHROPIC_AUTH_TOKEN",
        "ANTHROPIC_PROFILE",
        "workload identity",
        "/mnt/project/ANTHROPIC_API_KEY.txt",
        str(Path("ANTHROPIC_API_KEY.txt").absolute()),
        "/mnt/project/API_CREDENTIALS.json",
        str(Path("API_CREDENTIALS.json").absolute()),
        "stored profile",
    ]:
        assert place in str(caught.value)
    assert not api.requests


def test_a_configuration_folder_without_a_profile_is_the_same_error(no_key, monkeypatch, tmp_path):
    monkeypatch.setenv("ANTHROPIC_CONFIG_DIR", str(tmp_path))
    with pytest.raises(ValueError, match="No Claude API credentials found"):
        invoke_claude("hi")


def test_a_client_brought_without_credentials_is_the_same_error(no_key):
    with anthropic.Anthropic() as client:
        claude_client.set_default_client(client)
        with pytest.raises(ValueError, match="No Claude API credentials found"):
            invoke_claude("hi")


@pytest.mark.parametrize("key", MALFORMED.values(), ids=MALFORMED.keys())
@pytest.mark.parametrize(
    "source", ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_API_KEY.txt", "API_CREDENTIALS.json"]
)
def test_a_malformed_key_is_refused_by_source_and_never_shown(no_key, monkeypatch, source, key):
    if source.endswith(".txt"):
        Path(source).write_text(key, encoding="utf-8")
    elif source.endswith(".json"):
        Path(source).write_text(json.dumps({"anthropic_api_key": key}))
    else:
        monkeypatch.setenv(source, key)
    with pytest.raises(ValueError, match=source) as caught:
        invoke_claude("hi")
    assert "secret" not in shown(caught.value)


def test_a_key_variable_that_is_blank_is_refused(monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "  ")
    with pytest.raises(ValueError, match="ANTHROPIC_API_KEY holds no key"):
        invoke_claude("hi")


def test_a_key_variable_that_is_empty_counts_as_unset(monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "")
    with pytest.raises(ValueError, match="No Claude API credentials found"):
        invoke_claude("hi")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("ANTHROPIC_API_KEY.txt", b"", "is blank"),
        ("ANTHROPIC_API_KEY.txt", b"sk-secret\xff\xfe", "is not UTF-8"),
        ("API_CREDENTIALS.json", b"{sk-secret", "is not a JSON object"),
        ("API_CREDENTIALS.json", b'["sk-secret"]', "is not a JSON object"),
        ("API_CREDENTIALS.json", b'{"anthropic_api_key": ["sk-secret"]}', "is no text but a list"),
        ("API_CREDENTIALS.json", b'{"anthropic_api_key": ""}', "is blank"),
    ],
)
def test_a_malformed_file_is_refused_by_name_and_its_content_never_shown(no_key, name, content, problem):
    Path(name).write_bytes(content)
    with pytest.raises(ValueError, match=problem) as caught:
        invoke_claude("hi")
    assert name in str(caught.value)
    assert "secret" not in shown(caught.value)


def test_an_unreadable_file_is_refused_by_name(no_key):
    Path("ANTHROPIC_API_KEY.txt").mkdir()
    with pytest.raises(ValueError, match=r"ANTHROPIC_API_KEY\.txt cannot be read"):
        invoke_claude("hi")


def test_a_json_file_for_other_services_is_passed_over(no_key):
    Path("API_CREDENTIALS.json").write_text('{"github": "x"}')
    with pytest.raises(ValueError, match="No Claude API credentials found"):
        invoke_claude("hi")


@pytest.mark.parametrize("key", MALFORMED.values(), ids=MALFORMED.keys())
@pytest.mark.parametrize("argument", ["api_key", "auth_token"])
def test_a_malformed_key_in_a_client_brought_is_never_shown(no_key, argument, key, unanswered):
    with anthropic.Anthropic(**{argument: key}, base_url=unanswered) as client:
        claude_client.set_default_client(client)
        with pytest.raises(ClaudeInvocationError) as caught:
            invoke_claude("hi", max_retries=0)
    assert "secret" not in shown(caught.value)


def test_a_malformed_key_in_custom_headers_is_never_shown(no_key, monkeypatch, unanswered):
    monkeypatch.setenv("ANTHROPIC_CUSTOM_HEADERS", "X-Api-Key: sk-ant-secret\x07part2-secret")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", unanswered)
    with pytest.raises(ClaudeInvocationError) as caught:
        invoke_claude("hi", max_retries=0)
    assert "secret" not in shown(caught.value)


def test_a_malformed_key_in_extra_headers_is_never_shown(no_key, monkeypatch, unanswered):
    monkeypatch.setenv("ANTHROPIC_BASE_URL", unanswered)
    headers = {"Authorization": f"Bearer {MALFORMED['control character']}"}
    with pytest.raises(ClaudeInvocationError) as caught:
        invoke_claude("hi", max_retries=0, extra_headers=headers)
    assert "secret" not in shown(caught.value)


@pytest.mark.parametrize("name", ["x-goog-api-key", "Ocp-Apim-Subscription-Key", "cf-aig-authorization", "X-Other"])
@pytest.mark.parametrize("value", [MALFORMED["newline inside"], MALFORMED["not ASCII"]], ids=["newline", "not ASCII"])
def test_a_malformed_header_of_a_gateway_is_never_shown(monkeypatch, unanswered, name, value):
    with anthropic.Anthropic(base_url=unanswered, default_headers={name: value}) as client:
        claude_client.set_default_client(client)
        with pytest.raises(ClaudeInvocationError) as caught:
            invoke_claude("hi", max_retries=0)
    assert "secret" not in shown(caught.value)


def test_a_malformed_token_of_a_provider_is_never_shown(no_key, unanswered):
    token = MALFORMED["not ASCII"]
    provided = lambda **_: anthropic.AccessToken(token=token)  # noqa: E731
    with anthropic.Anthropic(credentials=provided, base_url=unanswered) as client:
        claude_client.set_default_client(client)
        with pytest.raises(ClaudeInvocationError) as caught:
            invoke_claude("hi", max_retries=0)
    assert "secret" not in shown(caught.value)


@pytest.fixture
def unanswered():
    """A real address that takes connections and says nothing, so that a request's headers are really built."""
    import socket
    import threading

    server = socket.create_server(("127.0.0.1", 0))

    def hang_up():
        while True:
            try:
                server.accept()[0].close()
            except OSError:
                return

    thread = threading.Thread(target=hang_up)
    thread.start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}"
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()


def shown(error: BaseException) -> str:
    """All of *error* that a log, a traceback or a debugger's repr would show."""
    chain = []
    link: BaseException | None = error
    while link is not None:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return "".join(traceback.format_exception(error)) + "".join(f"{e!r} {e.args} {vars(e)}" for e in chain)


def shown_of_ours(error):
    """All that a report of *error* shows with the locals of the library's frames, and of those below."""
    shown = []
    for link in filter(None, (error, error.__cause__)):
        report = traceback.TracebackException.from_exception(link, capture_locals=True)
        shown += [str(link), *(str(frame.locals) for frame in report.stack if frame.filename != __file__)]
    return "\n".join(shown)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("ANTHROPIC_BASE_URL", "", "must be a URL such as https://host, or not set; it is ''"),
        ("ANTHROPIC_BASE_URL", "localhost:8080", "it is 'localhost:8080'"),
        ("ANTHROPIC_BASE_URL", "ftp://me:secret@host", "it is 'host'"),
        ("ANTHROPIC_BASE_URL", "http://host:0x", "it is 'http://host:0x'"),
        ("SSL_CERT_FILE", "gone.pem", "SSL_CERT_FILE names 'gone.pem', which is not there"),
        ("HTTPS_PROXY", "gopher://me:secret@host", "environment variables HTTPS_PROXY"),
        ("all_proxy", "socks9://me:secret@host", "environment variables all_proxy"),
    ],
)
def test_a_client_that_cannot_be_made_names_the_variable(monkeypatch, name, value, problem):
    monkeypatch.setenv(name, value)
    for call in (has_credentials, lambda: invoke_claude("hi"), lambda: invoke_parallel([{"prompt": "hi"}])):
        with pytest.raises(ValueError, match=name) as caught:
            call()
        assert problem in str(caught.value)
        assert not [secret for secret in ("me:secret", KEY) if secret in shown_of_ours(caught.value)]


def test_a_malformed_key_is_in_no_frame_of_the_error(no_key, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-\u00e4-malformed")
    with pytest.raises(ValueError, match="non-ASCII character") as caught:
        invoke_claude("hi")
    assert "malformed" not in shown_of_ours(caught.value)


@pytest.mark.long
def test_a_child_that_was_spawned_is_told_that_it_has_a_default_client_of_its_own(tmp_path):
    code = """
import multiprocessing
from claude_client import invoke_claude

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        try:
            pool.map(invoke_claude, ["hi"])
        except ValueError as nothing:
            print("set_default_client()" in str(nothing))
    try:
        invoke_claude("hi")
    except ValueError as nothing:
        print("set_default_client()" in str(nothing))
"""
    (tmp_path / "program.py").write_text(code)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ANTHROPIC_")}
    kept["PYTHONPATH"] = str(Path(claude_client.__file__).parents[1])
    run = [sys.executable, str(tmp_path / "program.py")]
    ran = subprocess.run(run, capture_output=True, text=True, timeout=60, check=True, env=kept)
    assert ran.stdout == "True\nFalse\n"
