"""Scripted turns that ask for tools, and what the requests after them say of those."""

from claude_client import invoke_claude
from claude_client.simulator import Reply


def use(name, number=1, /, **arguments):
    """The block of a model that asks for a tool."""
    return {"type": "tool_use", "id": f"toolu_{name}_{number}", "name": name, "input": arguments}


def asks(*uses, text=None, **said):
    """A turn that asks for tools."""
    before = [{"type": "text", "text": text}] if text else []
    return Reply(content=[*before, *uses], stop_reason="tool_use", **said)


def results(request):
    """What the last message of a request says of tools, by the id of their use."""
    content = request.body["messages"][-1]["content"]
    return {block["tool_use_id"]: block for block in content if block["type"] == "tool_result"}


def told(request):
    """What the model is told by the results of tools, in their order."""
    return [block.get("content") for block in results(request).values()]


DEFINED = {"name": "any", "input_schema": {"type": "object"}}  # the API takes no history of tools without some


def go_on(sim, ended, **options):
    """Say one thing more in the conversation of an answer or an error, which the simulator takes as the API does."""
    sim.reset()
    answer = invoke_claude(
        None, messages=[*ended.messages, {"role": "user", "content": "Go on."}], **{"tools": [DEFINED], **options}
    )
    assert sim.requests[-1].status == 200
    return answer


def uses_and_results(messages):
    """The ids of the tools that were asked for in *messages*, and those of the results, in their order."""
    blocks = [block for message in messages for block in message["content"] if isinstance(block, dict)]
    asked = [block["id"] for block in blocks if block["type"] == "tool_use"]
    return asked, [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
