import inspect
import subprocess
import sys
import tomllib
import typing
from pathlib import Path

import pytest

import claude_client
import orchestration
import task_state
from claude_client._verbs.conversation import CONTINUATION_PROMPT
from pages import ROOT

PACKAGES = [claude_client, task_state, orchestration]

# The user's contract: names, order and defaults of what can be passed by position.
PROMPT = {"prompt": inspect.Parameter.empty}
MODEL = {"model": "claude-sonnet-4-6"}
CALL = {"system": None, "max_tokens": 4096, "temperature": 1.0}
CACHE = {"cache_system": False, "cache_prompt": False}
FAN_OUT = {
    "prompts": inspect.Parameter.empty,
    **MODEL,
    "max_tokens": 4096,
    "max_workers": 5,
    "shared_system": None,
    "cache_shared_system": False,
}
CONTRACT = {
    "invoke_claude": {**PROMPT, **MODEL, **CALL, "streaming": False, **CACHE, "messages": None},
    "invoke_claude_streaming": {**PROMPT, "callback": None, **MODEL, **CALL, **CACHE},
    "ConversationThread": {
        "system": None,
        **MODEL,
        "max_tokens": 4096,
        "temperature": 1.0,
        "cache_system": True,
        "max_turns": None,
        "continuation_prompt": CONTINUATION_PROMPT,
    },
    "StallDetector": {"timeout": 60.0, "on_stall": None},
    "invoke_parallel": FAN_OUT,
    "invoke_parallel_streaming": {"prompts": FAN_OUT["prompts"], "callbacks": None, **FAN_OUT},
    "invoke_parallel_interruptible": {"prompts": FAN_OUT["prompts"], "interrupt_token": None, **FAN_OUT},
}


@pytest.mark.parametrize("name", CONTRACT)
def test_signatures_are_the_contracts(name):
    parameters = inspect.signature(getattr(claude_client, name)).parameters.values()
    by_position = {p.name: p.default for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD}
    assert [*by_position.items()] == [*CONTRACT[name].items()]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_there_and_sorted(package):
    assert all(hasattr(package, name) for name in package.__all__)
    assert package.__all__ == sorted(package.__all__)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_function_and_class_is_documented(package):
    public = [getattr(package, name) for name in package.__all__]
    assert [one for one in public if inspect.isclass(one) or inspect.isfunction(one) if not one.__doc__] == []


@pytest.mark.parametrize("name", CONTRACT)
def test_annotations_resolve_at_run_time(name):
    one = getattr(claude_client, name)
    assert "return" in typing.get_type_hints(one.__init__ if inspect.isclass(one) else one)


@pytest.mark.once
def test_the_version_is_that_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert claude_client.__version__ == project["version"]


@pytest.mark.parametrize(
    "thing",
    [
        claude_client.ConversationThread(),
        claude_client.InterruptToken(),
        claude_client.StallDetector(),
        orchestration.ConcurrencyLimiter(),
        task_state.TaskTracker(),
    ],
    ids=lambda thing: type(thing).__name__,
)
@pytest.mark.parametrize("name", ["max_turns", "global_limit", "timeout", "max_retries", "anything"])
def test_an_assignment_that_would_do_nothing_is_refused(thing, name):
    with pytest.raises(AttributeError):
        setattr(thing, name, 3)


@pytest.mark.once
@pytest.mark.parametrize("name", ["task_state", "claude_client"])
def test_a_module_of_the_users_that_hides_ours_is_named(tmp_path, name):
    (tmp_path / f"{name}.py").write_text("mine = True")
    source = Path(orchestration.__file__).parents[1]
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(source)!r}]; import {name}, orchestration"
    failed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"{name} is {tmp_path / name}.py here, which sys.path has before ours" in failed.stderr
