import pickle
import time
import traceback
import types
from email.utils import formatdate

import anthropic
import httpx
import pytest

import claude_client
from claude_client import ClaudeInvocationError, ParallelInvocationError, Results, Usage, invoke_claude, invoke_parallel
from claude_client._values.errors import from_sdk
from claude_client._values.kinds import TRANSIENT
from helpers import KEY, Page, core, error, event, reply, start, stream


def failure(api, response) -> ClaudeInvocationError:
    api.answers(response)
    with pytest.raises(ClaudeInvocationError) as caught:
        invoke_claude("hi", max_retries=0)
    return caught.value


@pytest.mark.parametrize(
    ("status", "kind_said", "code", "kind"),
    [
        (400, "invalid_request_error", None, "invalid_request"),
        (401, "authentication_error", None, "authentication"),
        (402, "billing_error", None, "billing"),
        (402, "billing_error", "linked_organization_spend_limit_reached", "spend_limit"),
        (403, "permission_error", None, "permission"),
        (400, "invalid_request_error", "organization_on_hold", "permission"),
        (404, "not_found_error", None, "not_found"),
        (408, "timeout_error", None, "timeout"),
        (409, "conflict_error", None, "conflict"),
        (413, "request_too_large", None, "request_too_large"),
        (422, "from_the_future", None, "invalid_request"),
        (429, "rate_limit_error", None, "rate_limit"),
        (429, "rate_limit_error", "ramp_limit_exceeded", "rate_limit"),
        (429, "rate_limit_error", "enforced_spend_limit_reached", "spend_limit"),
        (429, "rate_limit_error", "contract_spend_limit_reached", "spend_limit"),
        (500, "api_error", None, "server_error"),
        (501, "from_the_future", None, "server_error"),
        (504, "timeout_error", None, "timeout"),
        (529, "overloaded_error", None, "overloaded"),
    ],
)
def test_each_answer_of_the_api_has_its_kind(api, status, kind_said, code, kind):
    failed = failure(api, error(status, kind_said, "Told so", code=code))
    assert (failed.kind, failed.status_code, failed.request_id) == (kind, status, "req_1")
    assert failed.details["error"]["message"] == "Told so"
    assert failed.retryable == (kind in TRANSIENT)
    assert "Told so" in str(failed)
    assert isinstance(failed.__cause__, anthropic.APIStatusError)


def test_a_spend_limit_that_the_customer_set_is_told_by_its_words(api):
    said = "You have reached your specified workspace API usage limits. You will regain access on 2026-12-01."
    failed = failure(api, error(400, "invalid_request_error", said))
    assert (failed.kind, failed.retryable) == ("spend_limit", False)


def test_an_account_without_credit_is_about_billing_and_ends_a_run(api):
    said = "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade."
    failed = failure(api, error(400, "invalid_request_error", said))
    assert (failed.kind, failed.retryable) == ("billing", False)
    api.always(lambda _: error(400, "invalid_request_error", said))
    before = len(api.requests)
    results = invoke_parallel([{"prompt": "hi"}] * 100, return_exceptions=True, max_workers=2)
    assert {failed.kind for failed in results} == {"billing"}
    assert len(api.requests) - before <= 2


@pytest.mark.parametrize(
    ("status", "headers", "body", "kind"),
    [
        (429, {"x-amzn-errortype": "ThrottlingException:http://internal/"}, {"message": "Slow down"}, "rate_limit"),
        (400, {"x-amzn-errortype": "ServiceQuotaExceededException"}, {"message": "Slow down"}, "rate_limit"),
        (400, {"x-amzn-errortype": "ValidationException"}, {"message": "Slow down"}, "invalid_request"),
        (403, {"x-amzn-errortype": "UnrecognizedClientException"}, {"message": "Slow down"}, "authentication"),
        (403, {"x-amzn-errortype": "AccessDeniedException"}, {"message": "Slow down"}, "permission"),
        (424, {"x-amzn-errortype": "ModelErrorException"}, {"message": "Slow down"}, "server_error"),
        (429, {"x-amzn-errortype": "ModelNotReadyException"}, {"message": "Slow down"}, "overloaded"),
        (408, {"x-amzn-errortype": "ModelTimeoutException"}, {"message": "Slow down"}, "timeout"),
        (400, {}, {"__type": "com.amazon#ExpiredTokenException", "message": "Slow down"}, "authentication"),
        (503, {}, {"error": {"code": 503, "message": "Slow down", "status": "UNAVAILABLE"}}, "overloaded"),
        (429, {}, [{"error": {"code": 429, "message": "Slow down", "status": "RESOURCE_EXHAUSTED"}}], "rate_limit"),
        (400, {}, {"error": {"code": 400, "message": "Slow down", "status": "FAILED_PRECONDITION"}}, "invalid_request"),
        (404, {}, {"error": {"code": "DeploymentNotFound", "message": "Slow down"}}, "not_found"),
        (429, {}, {"error": {"code": "RateLimitReached", "message": "Slow down"}}, "rate_limit"),
    ],
)
def test_clouds_have_names_of_their_own_for_their_errors(api, status, headers, body, kind):
    failed = failure(api, httpx.Response(status, json=body, headers=headers))
    assert (failed.kind, failed.retryable) == (kind, kind in TRANSIENT)
    assert "Slow down" in str(failed)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("throttlingException", "rate_limit"),
        ("modelStreamErrorException", "server_error"),
        ("serviceUnavailableException", "overloaded"),
        ("modelTimeoutException", "timeout"),
    ],
)
def test_an_exception_in_a_stream_of_bedrock_has_its_kind(api, name, kind):
    api.answers(stream(start(), event("error", error={"type": name, "message": "No"})))
    with pytest.raises(ClaudeInvocationError) as caught:
        invoke_claude("hi", streaming=True, max_retries=0)
    assert (caught.value.kind, caught.value.retryable) == (kind, True)


def test_a_status_without_a_readable_body_has_the_kind_of_its_status(api):
    failed = failure(api, httpx.Response(529, html="<html>Busy</html>"))
    assert (failed.kind, failed.status_code, failed.retryable) == ("overloaded", 529, True)


def test_every_error_class_of_the_sdk_has_a_kind():
    import importlib

    http = importlib.import_module(anthropic.DefaultHttpxClient.__mro__[1].__module__.split(".")[0])
    request = http.Request("POST", "https://api.anthropic.com/v1/messages")
    statuses = {cls: cls.status_code for cls in subclasses(anthropic.APIStatusError) if hasattr(cls, "status_code")}
    assert len(statuses) >= 8
    for cls, status in statuses.items():
        exc = cls("m", response=http.Response(status, request=request), body=None)
        assert from_sdk(exc, []).kind not in {"invalid_response", "connection"}, cls
    assert from_sdk(anthropic.APIConnectionError(request=request), []).kind == "invalid_request"
    assert from_sdk(anthropic.APITimeoutError(request=request), []).kind == "timeout"
    validation = anthropic.APIResponseValidationError(http.Response(200, request=request), body=None)
    assert from_sdk(validation, []).kind == "invalid_response"


def subclasses(cls):
    return {cls, *(leaf for child in cls.__subclasses__() for leaf in subclasses(child))} - {anthropic.APIStatusError}


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (core.ConnectError("refused"), "connection"),
        (core.ReadError("reset"), "connection"),
        (core.ConnectTimeout("slow"), "timeout"),
        (core.PoolTimeout("full"), "timeout"),
        (core.LocalProtocolError("illegal header"), "invalid_request"),
        (core.UnsupportedProtocol("ftp"), "invalid_request"),
    ],
)
def test_network_failures_are_told_apart(api, cause, kind):
    failed = failure(api, cause)
    assert (failed.kind, failed.status_code, failed.retryable) == (kind, None, kind in TRANSIENT)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after-ms": "0", "retry-after": "5"}, 5),
        ({"retry-after-ms": "nan", "retry-after": "5"}, 5),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "0"}, None),
        ({"retry-after": "99999999"}, None),
        ({"retry-after": "2592000"}, 2592000),
        ({"retry-after": "Mon, 01 Jan 2001 00:00:00 GMT"}, None),
        ({"retry-after": "Fri, 31 Dec 99999 23:59:59 GMT"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_in_seconds(api, headers, seconds):
    assert failure(api, error(429, "rate_limit_error", headers=headers)).retry_after == seconds


def test_retry_after_may_be_a_date(api):
    in_an_hour = formatdate(time.time() + 3600, usegmt=True)
    seconds = failure(api, error(429, headers={"retry-after": in_an_hour})).retry_after
    assert seconds == pytest.approx(3600, abs=60)


def test_the_server_may_say_whether_to_retry(api):
    assert failure(api, error(400, headers={"x-should-retry": "true"})).retryable
    assert not failure(api, error(500, headers={"x-should-retry": "false"})).retryable


def test_no_header_makes_a_spend_limit_worth_retrying(api):
    code = "enforced_spend_limit_reached"
    assert not failure(api, error(429, code=code, headers={"x-should-retry": "true"})).retryable


def test_an_error_that_echoes_the_key_does_not_show_it(api):
    failed = failure(api, error(401, "authentication_error", f"invalid x-api-key: {KEY}"))
    assert "[redacted]" in str(failed)
    assert isinstance(failed.__cause__, anthropic.AuthenticationError)
    assert failed.__context__ is None
    assert KEY not in "".join(traceback.format_exception(failed)) + repr(failed) + str(vars(failed))


def test_a_refused_key_is_looked_for_again(api, monkeypatch):
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    from pathlib import Path

    Path("ANTHROPIC_API_KEY.txt").write_text("sk-wrong-key")
    failure(api, error(401, "authentication_error"))
    Path("ANTHROPIC_API_KEY.txt").write_text("sk-right-key")
    api.answers(reply())
    invoke_claude("hi")
    assert "sk-right-key" in str(api.requests[-1].headers.raw)


def test_a_note_on_an_error_does_not_get_in_the_way():
    failed = ClaudeInvocationError("m", kind="overloaded")
    failed.add_note("look here")
    assert ParallelInvocationError.of(Results([None], {0: failed})).kind == "overloaded"


def test_errors_survive_pickling():
    failed = ClaudeInvocationError("m", kind="overloaded", status_code=529, usage=Usage(1, 2), partial_text="p")
    whole = ParallelInvocationError.of(Results([None, None], {1: failed}))
    for one in (failed, whole):
        copy = pickle.loads(pickle.dumps(one))
        assert (str(copy), copy.kind, copy.usage, copy.partial_text) == (str(one), "overloaded", Usage(1, 2), "p")
    assert pickle.loads(pickle.dumps(whole)).errors.keys() == {1}


def test_a_parallel_error_has_the_fields_of_the_lowest_failed_index(api):
    api.always(lambda request: error(404 if b"second" in request.content else 403, "x", "why"))
    with pytest.raises(
        ParallelInvocationError, match=r"2 of 2 prompts failed; prompts\[0\]: permission: 403"
    ) as caught:
        invoke_parallel([{"prompt": "first"}, {"prompt": "second"}])
    assert (caught.value.kind, caught.value.status_code) == ("permission", 403)
    assert caught.value.errors[1].status_code == 404
    assert caught.value.__cause__ is caught.value.errors[0]


def test_an_error_of_a_client_that_was_closed_says_so():
    client = anthropic.Anthropic()
    client.close()
    claude_client.set_default_client(client)
    with pytest.raises(ClaudeInvocationError, match="closed") as caught:
        invoke_claude("hi")
    assert not caught.value.retryable


def test_a_token_that_could_not_be_had_is_about_authentication():
    assert from_sdk(anthropic.AnthropicError("no token"), []).kind == "authentication"


def test_lists_in_a_body_are_scrubbed_too():
    body = {"error": {"message": "no", "tried": ["the key sk-very-secret", 7]}}
    response = types.SimpleNamespace(headers={}, request=None, status_code=400)
    refused = types.SimpleNamespace(body=body, status_code=400, response=response)
    exc = type("Refused", (Exception,), vars(refused))()
    assert from_sdk(exc, ["sk-very-secret"]).details["error"]["tried"] == ["the key [redacted]", 7]


def test_a_notebook_shows_what_went_wrong_and_what_had_arrived():
    failed = ClaudeInvocationError(
        "<b>no</b>",
        kind="incomplete_stream",
        status_code=200,
        request_id="req_1",
        retry_after=7.5,
        partial_text="The <i>",
        usage=Usage(1000, 50),
    )
    page = Page(failed._repr_html_())
    assert dict(zip(page.of("th"), page.of("td"), strict=True)) == {
        "message": "incomplete_stream: <b>no</b>",
        "kind": "incomplete_stream",
        "status_code": "200",
        "request_id": "req_1",
        "retry_after": "7.5",
        "partial_text": "The <i>",
        "tokens": "1,000 in, 50 out",
    }
    assert Page(ClaudeInvocationError("no")._repr_html_()).of("th") == ["message", "kind", "tokens"]
