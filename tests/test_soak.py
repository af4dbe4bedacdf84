"""Two thousand calls of which a third go wrong, in every way there is: each prompt gets its one right answer."""

import random
from collections import Counter

import pytest

import claude_client
from claude_client import invoke_parallel
from claude_client.simulator import Reply, Simulator

CALLS = 2000
EACH = 95  # faults of each kind
FAULTS = {
    "rate_limit": Reply(fault="rate_limit", retry_after=0.001),  # so short a wait is no reason to slow down
    "overloaded": Reply(fault="overloaded", retry_after=0.001),
    "cut": Reply(fault="cut"),
    "silent": Reply(fault="silent"),
    "early_end": Reply(fault="early_end"),
    "error_event": Reply(fault="error_event"),
    "malformed": Reply(fault="malformed"),
}
SILENCE = 2.0  # seconds; far more than the simulator ever takes to answer


@pytest.mark.long
@pytest.mark.once
def test_every_prompt_gets_exactly_one_right_answer_through_every_kind_of_fault(monkeypatch):
    draw = random.Random(20261122)
    faults = [fault for fault in FAULTS for _ in range(EACH)]
    struck = dict(zip(draw.sample(range(CALLS), len(faults)), faults, strict=True))
    with Simulator() as sim:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", sim.base_url)

        def answer(request):
            number = int(request.body["messages"][0]["content"])
            return FAULTS[struck.pop(number)] if number in struck else Reply(text=f"answer {number}")

        sim.script_by(answer)
        prompts = [{"prompt": str(i), "streaming": draw.random() < 0.5} for i in range(CALLS)]
        results = invoke_parallel(prompts, max_workers=10, max_retries=3, timeout=SILENCE)
        seen = sim.requests
        claude_client.set_default_client(None)

    assert results == [f"answer {i}" for i in range(CALLS)]
    assert Counter(request.fault for request in seen if request.fault) == dict.fromkeys(FAULTS, EACH)
    answered = Counter(request.answer for request in seen if request.outcome == "answered")
    assert answered == Counter(results)
