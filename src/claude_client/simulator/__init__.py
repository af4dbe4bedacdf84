"""
A loopback stand-in for the Claude Messages API: rehearse an orchestration without a key or a bill.

    with Simulator(latency=0.2) as sim:
        sim.script(Reply(fault="overloaded"), Reply(text="Hello."))
        client = anthropic.Anthropic(api_key="any", base_url=sim.base_url)

It keeps the API's rules: prompt cache, rate limits, versions, stop reasons, event order; and refuses what the API
refuses, in its words where they are known. Its text is marked ``[simulated ...]`` unless a `Reply` says otherwise, and
obeys a JSON schema in ``output_config``. It counts a token for every four bytes of UTF-8.

The modules, bottom up:

- ``_numbers``, ``_errors``, ``_models``: checks, error answers, the differences of models
- ``_prompt``: a request as the list of its blocks; ``_record``: `SeenRequest`
- ``_script``: `Reply`, its faults, and the queues; ``_pace``: how fast
- ``_checks``, ``_patterns``, ``_schemas``, ``_tools``, ``_parameters``, ``_blocks``, ``_contents``,
  ``_validation``: what is refused
- ``_cache``, ``_limits``: what is cached, and how often one may ask; ``_batches``: batches
- ``_instances``, ``_answer``, ``_wire``: the content of an answer, and its bytes
- ``_state``: everything that changes, under one lock
- ``_connection``, ``_exchange``, ``_answering``, ``_app``: from the socket to the rules and back
- ``_server``, ``_simulator``: the thread, and `Simulator`; ``__main__``: the command line

The rules it follows are cited as "facts N": section N of the project's notes on the API.
"""

try:
    from ._simulator import Simulator
except ModuleNotFoundError as exc:  # no coverage: a program of its own tries it
    missing = (exc.name or "").partition(".")[0]
    if missing not in ("starlette", "uvicorn", "h11"):
        raise
    raise ImportError(f"the simulator needs {missing}: pip install starlette uvicorn trustme") from exc

from ._batches import BatchReply, SeenBatch
from ._limits import Limits
from ._record import Outcome, SeenRequest
from ._script import Fault, Reply

__all__ = ["BatchReply", "Fault", "Limits", "Outcome", "Reply", "SeenBatch", "SeenRequest", "Simulator"]
