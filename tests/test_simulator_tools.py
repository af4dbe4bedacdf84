"""Conversations with tools, as the simulator holds them: calls, results, pauses, and ends in the middle."""

import json

import anthropic
import pytest

from claude_client.simulator import Reply, Simulator

HELLO = {"role": "user", "content": "Hello"}
TOOLS = [{"name": name, "input_schema": {"type": "object"}} for name in ("look", "list")]
LOOKS = [("look", {"at": "a"}), ("look", {"at": "b"}), ("list", {})]
SEARCH = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "it"}}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}


@pytest.fixture
def sim():
    with Simulator() as simulator:
        yield simulator


@pytest.fixture
def client(sim):
    with anthropic.Anthropic(api_key="any", base_url=sim.base_url, max_retries=0) as claude:
        yield claude


@pytest.fixture(params=["create", "stream"])
def ask(request, client):
    """Asks with *messages*, whole or streamed, and gives the message."""

    def asked(*messages, **fields):
        params = {"model": "claude-sonnet-4-6", "max_tokens": 1000, "messages": [*messages], "tools": TOOLS, **fields}
        if request.param == "create":
            return client.messages.create(**params)
        with client.messages.stream(**params) as events:
            return events.get_final_message()

    return asked


def turn(message):
    """The turn of a conversation that *message* is, as the API takes it back."""
    return {"role": "assistant", "content": [block.to_dict() for block in message.content]}


def calls_of(message):
    return [(block.name, block.input) for block in message.content if block.type == "tool_use"]


def results_of(message, said="done"):
    """The results of all calls in *message*."""
    ids = [block.id for block in message.content if block.type == "tool_use"]
    return {"role": "user", "content": [{"type": "tool_result", "tool_use_id": one, "content": said} for one in ids]}


def test_a_turn_may_call_several_tools(sim, ask):
    sim.script(Reply(text="Let me see.", tool_uses=LOOKS))
    message = ask(HELLO)
    assert (message.stop_reason, calls_of(message)) == ("tool_use", LOOKS)
    assert [block.type for block in message.content] == ["text", *["tool_use"] * 3]


def test_another_process_scripts_several_calls():
    assert Reply.from_json({"tool_uses": [["look", {}], ["list", {}]]}).calls == [["look", {}], ["list", {}]]


def test_no_two_calls_of_a_conversation_have_the_same_id(sim, ask):
    sim.script(*[Reply(tool_uses=LOOKS)] * 3)
    messages = [HELLO]
    for _ in range(3):
        answer = ask(*messages)
        messages += [turn(answer), results_of(answer)]
    assert ask(*messages).stop_reason == "end_turn"
    assert len({block["id"] for message in messages[1::2] for block in message["content"]}) == 9


def test_a_function_reacts_to_the_results(sim, ask):
    def model(request):
        if not request.tool_results:
            return Reply(tool_uses=LOOKS)
        return Reply(text=" ".join(result["content"] for result in request.tool_results))

    sim.script_by(model)
    first = ask(HELLO)
    assert ask(HELLO, turn(first), results_of(first, "seen")).content[0].text == "seen seen seen"
    assert [result["content"] for result in sim.requests[1].tool_results] == ["seen"] * 3


@pytest.mark.parametrize(
    "body", [{}, {"messages": 5}, {"messages": []}, {"messages": ["x"]}, {"messages": [HELLO]}, {"messages": [{}]}]
)
def test_a_request_without_results_has_none(sim, client, body):
    with pytest.raises(anthropic.APIStatusError):
        client.post("/v1/messages", body=body, cast_to=object)
    assert sim.requests[0].tool_results == ()


@pytest.mark.parametrize(
    ("fault", "reason"), [("max_tokens", "max_tokens"), ("context_window", "model_context_window_exceeded")]
)
def test_a_call_may_be_cut_off(sim, ask, fault, reason):
    sim.script(Reply(text="So:", tool_uses=[("list", {"n": 1}), ("look", {"n": 12, "at": "a"})], fault=fault))
    message = ask(HELLO)
    assert (message.stop_reason, calls_of(message)) == (reason, [("list", {"n": 1}), ("look", {"n": 12})])


def test_the_json_of_a_call_that_is_cut_off_does_not_end(sim, client):
    sim.script(Reply(tool_uses=[("list", {"n": 1}), ("look", {"at": [1, 2], "far": "b"})], fault="max_tokens"))
    said = ["", ""]
    params = {"model": "claude-sonnet-4-6", "max_tokens": 1000, "messages": [HELLO], "tools": TOOLS}
    with client.messages.create(**params, stream=True) as events:
        for event in events:
            if event.type == "content_block_delta":
                said[event.index] += event.delta.partial_json
    assert json.loads(said[0]) == {"n": 1}
    assert said[1].startswith('{"at": [1, 2]')
    with pytest.raises(json.JSONDecodeError):
        json.loads(said[1])


def test_a_call_that_ends_at_max_tokens_may_be_whole(sim, ask):
    sim.script(Reply(tool_use=("look", {"at": "a"}), stop_reason="max_tokens"))
    message = ask(HELLO)
    assert (message.stop_reason, calls_of(message)) == ("max_tokens", [("look", {"at": "a"})])


def test_a_turn_that_paused_goes_on_with_the_result_of_its_server_tool(sim, ask):
    sim.script(*[Reply(text="Hm.", fault="pause_turn")] * 2, Reply(text="So.", tool_use=("look", {})))
    messages, kinds = [HELLO], []
    for _ in range(3):
        answer = ask(*messages)
        messages.append(turn(answer))
        kinds.append([block.type for block in answer.content])
    result = "web_search_tool_result"
    assert kinds == [["text", "server_tool_use"], [result, "text", "server_tool_use"], [result, "text", "tool_use"]]
    assert ask(*messages, results_of(answer)).stop_reason == "end_turn"


def test_a_turn_with_calls_of_both_kinds_goes_on_once_the_results_are_given(sim, ask):
    sim.script(Reply(content=[SEARCH, CALL], stop_reason="tool_use"), Reply(text="Found."))
    first = ask(HELLO)
    second = ask(HELLO, turn(first), results_of(first))
    assert [block.type for block in second.content] == ["web_search_tool_result", "text"]
    assert second.content[0].tool_use_id == SEARCH["id"]
    assert ask(HELLO, turn(first), results_of(first), turn(second), HELLO).stop_reason == "end_turn"


class TestSmallWindow:
    @pytest.fixture
    def sim(self):
        with Simulator(context_window=100) as simulator:
            yield simulator

    @pytest.fixture
    def ask(self, ask):
        """Asks with a prompt that leaves 10 tokens."""
        return lambda: ask({"role": "user", "content": "word" * 90}, tools=[])

    @pytest.mark.parametrize("reply", [Reply(), Reply(text="word" * 11), Reply(text="word" * 10 + "s", latency=0)])
    def test_an_answer_ends_where_it_does(self, sim, ask, reply):
        sim.script(reply)
        message = ask()
        assert (message.stop_reason, message.usage.output_tokens) == ("model_context_window_exceeded", 10)

    def test_an_answer_that_fits_is_whole(self, sim, ask):
        sim.script(Reply(text="word" * 10))
        assert ask().stop_reason == "end_turn"

    def test_a_call_of_a_tool_is_cut_off(self, sim, ask):
        sim.script(Reply(text="word", tool_uses=[("look", {}), ("look", {"n": 1, "at": "a" * 40}), ("list", {})]))
        message = ask()
        assert (message.stop_reason, calls_of(message)) == (
            "model_context_window_exceeded",
            [("look", {}), ("look", {"n": 1})],
        )

    @pytest.mark.parametrize(
        "reply", [Reply(thinking="word" * 11, text="x"), Reply(text="word" * 10, tool_use=("look", {}))]
    )
    def test_what_is_of_no_use_in_part_is_left_out(self, sim, ask, reply):
        sim.script(reply)
        message = ask()
        assert message.stop_reason == "model_context_window_exceeded"
        assert {block.type for block in message.content} <= {"text"}

    def test_blocks_that_are_scripted_one_by_one_are_sent_as_they_are(self, sim, ask):
        sim.script(Reply(content=[{"type": "text", "text": "word" * 11}]))
        assert ask().stop_reason == "end_turn"
