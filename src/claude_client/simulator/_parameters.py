"""The rules for a request's parameters: their names, and the values that go together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ._checks import JsonTypes, check_choice, check_fields, check_tag, check_type
from ._errors import invalid
from ._models import ALWAYS_THINKS, FAST, NO_FORCED_TOOL, most_output, takes_sampling, undated, version
from ._prompt import Body
from ._tools import forces_a_tool

# The parameters of the SDKs, and of the beta client, which posts to the same path.
COUNTED: Mapping[str, JsonTypes] = {
    "model": str,
    "messages": list,
    "cache_control": dict,
    "context_management": dict,
    "mcp_servers": list,
    "output_config": dict,
    "output_format": dict,
    "speed": str,
    "system": (str, list),
    "thinking": dict,
    "tool_choice": dict,
    "tools": list,
    "user_profile_id": str,
    "workspace_id": str,
}
CREATED: Mapping[str, JsonTypes] = {
    **COUNTED,
    "max_tokens": int,
    "container": (str, dict),
    "diagnostics": dict,
    "fallbacks": (str, list),
    "inference_geo": str,
    "metadata": dict,
    "service_tier": str,
    "stop_sequences": list,
    "stream": bool,
    "thread": dict,
}
SAMPLING: Mapping[str, JsonTypes] = {"temperature": (float, int), "top_p": (float, int), "top_k": int}
SAMPLING_DEFAULTS = {"temperature": 1, "top_p": 0.99}  # facts 1
LEAST_BUDGET = 1024  # tokens


def check_keys(body: Body, known: Mapping[str, JsonTypes], required: Sequence[str], *, sampling: bool) -> None:
    """
    Check that every required parameter is there, and none but the known ones, each of its JSON type.

    Args:
        sampling: Whether the sampling parameters are known. Facts 1: not since 2026-10-21, at any value.
    """
    allowed = {**known, **SAMPLING} if sampling else known
    for key in required:
        if body.get(key) is None:
            raise invalid(f"{key}: Field required")
    for key, value in body.items():
        if key not in allowed:
            raise invalid(f"{key}: Extra inputs are not permitted")
        if value is not None:
            check_type(key, value, allowed[key])


def check_max_tokens(body: Body) -> None:
    """Check that max_tokens is one the model has, and that a request with 0 only warms the cache."""
    wanted, most = body["max_tokens"], most_output(body["model"])
    if wanted < 0:
        raise invalid("max_tokens: Input should be greater than or equal to 0")
    if wanted > most:
        raise invalid(
            f"max_tokens: {wanted} > {most}, which is the maximum allowed number of output tokens for {body['model']}"
        )
    if wanted == 0 and (reason := _not_for_warming(body)):
        raise invalid(f"max_tokens: 0 cannot be combined with {reason}")


def _not_for_warming(body: Body) -> str | None:
    """The thing in *body* that a request with max_tokens 0 may not ask for (facts 2); None if there is none."""
    if body.get("stream"):
        return "stream"
    if _type_of(body, "thinking") == "enabled":
        return "thinking.type enabled"
    if (body.get("output_config") or {}).get("format"):
        return "output_config.format"
    return "a forced tool_choice" if forces_a_tool(body) else None


def check_sampling(body: Body) -> None:
    """Check the sampling parameters by the rules of each model under 2023-06-01 (facts 1)."""
    given = {key: body[key] for key in SAMPLING if body.get(key) is not None}
    if outside := [key for key in ("temperature", "top_p") if not 0 <= given.get(key, 0) <= 1]:
        raise invalid(f"{outside[0]}: Input should be between 0 and 1")
    if given.get("top_k", 0) < 0:
        raise invalid("top_k: Input should be greater than or equal to 0")
    if takes_sampling(body["model"]):
        _check_while_thinking(given, body)
    elif refused := [key for key, value in given.items() if value != SAMPLING_DEFAULTS.get(key)]:
        raise invalid(f"{refused[0]}: this model takes no value but the default")
    if version(body["model"]) != (4, 6) and {"temperature", "top_p"} <= given.keys():
        raise invalid("temperature and top_p cannot both be specified for this model")


def _check_while_thinking(given: Mapping[str, Any], body: Body) -> None:
    if _type_of(body, "thinking") in (None, "disabled"):
        return
    for key in ("temperature", "top_k"):
        if key in given:
            raise invalid(f"{key}: may not be set while thinking is on")
    if not 0.95 <= given.get("top_p", 1) <= 1:
        raise invalid("top_p: must be between 0.95 and 1 while thinking is on")


def check_model_limits(body: Body) -> None:
    """Refuse tool choices and thinking that some models do not support (facts 5)."""
    model = undated(body["model"])
    if model in NO_FORCED_TOOL and forces_a_tool(body):
        raise invalid("tool_choice: this model does not support forced tool use")
    if model in ALWAYS_THINKS and _type_of(body, "thinking") == "disabled":
        raise invalid("thinking.type: disabled is not supported for this model")
    if _type_of(body, "thinking") == "enabled" and version(model) > (4, 6):
        raise invalid('"thinking.type.enabled" is not supported for this model. Use "thinking.type.adaptive".')
    if _type_of(body, "thinking") == "adaptive" and version(model) < (4, 6):
        raise invalid("adaptive thinking is not supported on this model")
    if body.get("speed") == "fast" and model not in FAST:
        raise invalid(f"{body['model']!r} does not support the `speed` parameter")
    if body.get("inference_geo") == "us" and version(model) < (4, 6):
        raise invalid(f"{body['model']!r} does not support the `inference_geo` parameter")


def check_thinking(body: Body) -> None:
    """Check the kind of thinking, its budget, and that it leaves the choice of a tool to the model."""
    thinking = body.get("thinking")
    if thinking is None:
        return
    check_tag("thinking", thinking, ("adaptive", "between_tools", "disabled", "enabled"))
    if thinking["type"] == "enabled":
        _check_budget(thinking, body)
    if thinking["type"] in ("adaptive", "enabled") and forces_a_tool(body):
        raise invalid("Thinking may not be enabled when tool_choice forces tool use.")


def _check_budget(thinking: Mapping[str, Any], body: Body) -> None:
    if "budget_tokens" not in thinking:
        raise invalid("thinking.enabled.budget_tokens: Field required")
    budget = thinking["budget_tokens"]
    check_type("thinking.enabled.budget_tokens", budget, int)
    if budget < LEAST_BUDGET:
        raise invalid(f"thinking.enabled.budget_tokens: Input should be greater than or equal to {LEAST_BUDGET}")
    if body.get("max_tokens", budget + 1) <= budget:
        raise invalid("`max_tokens` must be greater than `thinking.budget_tokens`.")


def check_other_values(body: Body) -> None:
    """Check the parameters that mean the same to every model."""
    check_choice("service_tier", body.get("service_tier"), ("auto", "standard_only"))
    check_choice("speed", body.get("speed"), ("standard", "fast"))
    metadata = body.get("metadata") or {}
    check_fields("metadata", metadata, {"user_id"})
    if metadata.get("user_id") is not None:
        check_type("metadata.user_id", metadata["user_id"], str)
    for number, sequence in enumerate(body.get("stop_sequences") or ()):
        check_type(f"stop_sequences.{number}", sequence, str)
        if not sequence.strip():
            missing = "contain non-whitespace" if sequence else "be non-empty"
            raise invalid(f"stop_sequences: each stop sequence must {missing}")


def _type_of(body: Body, key: str) -> str | None:
    return (body.get(key) or {}).get("type")
