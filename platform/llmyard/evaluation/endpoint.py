"""A model behind a URL: llmyard's own endpoint, or another that speaks OpenAI's protocol."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from llmyard.core.errors import LlmyardError, RequestError

RECORDS = 8  # in one request
MAX_ANSWER_BYTES = 64 << 20
_PATIENCE = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before each further try
_BUSY = (429, 502, 503, 504)
_REFUSED = (400, 413, 422)
# What a list of models says of one and says again as long as it stays the same; others tell the time of the request.
_LASTING = ("id", "artifact", "root", "parent", "owned_by")
_LONGEST_WAIT = 60.0  # seconds, whatever an endpoint asks for


class _Here(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the key is for the address that was given."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


_opener = urllib.request.build_opener(_Here)


class EndpointFailed(LlmyardError):
    """An endpoint did not answer, or not as it should."""


class Refused(RequestError):
    """An endpoint does not take what it was asked."""


@dataclass(frozen=True)
class LiveModel:
    """A model that answers over HTTP.

    Attributes:
        url: Of the endpoint, without ``/v1``.
        name: As its ``/v1/models`` lists it.
        key: API key; "" where none is asked for.
        streams: Requests at once.
        timeout: Seconds for one request.
    """

    url: str
    name: str
    key: str = field(default="", repr=False)
    streams: int = 8
    timeout: float = 120.0

    def about(self) -> dict[str, Any]:
        """Returns what the endpoint says of the model; with ``artifact`` and ``task`` where it is llmyard's own.

        Raises:
            RequestError: There is no such model, the key is refused, or the URL is none.
            EndpointFailed: It does not answer.
        """
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or "@" in parts.netloc:
            raise RequestError(
                "that is no address of an endpoint", "give http://HOST:PORT or https://HOST, no password"
            )
        listed = self._ask("/v1/models")
        models: dict[str, dict[str, Any]] = {str(each.get("id")): each for each in _list(listed, "data")}
        if self.name not in models:
            there = ", ".join(models) or "none"
            raise RequestError(f"{self.url} has no model {self.name!r}", f"it has: {there}")
        return models[self.name]

    def identity(self) -> str:
        """Returns what tells this model from another one that answers under its name later.

        Raises:
            RequestError: As of :meth:`about`.
            EndpointFailed: It does not answer.
        """
        about = self.about()
        return json.dumps({name: about[name] for name in _LASTING if name in about}, sort_keys=True)

    def predict(self, records: Sequence[dict[str, Any]]) -> list[Any]:
        """Returns what a model of llmyard says of records of its task, in their order; of one that it refuses, for
        being too long for instance, the refusal.

        Raises:
            RequestError: The key or the model is refused.
            EndpointFailed: It does not answer.
        """
        try:
            return self._predicted(records)
        except Refused as refused:
            if len(records) < 2:
                return [refused]
        middle = len(records) // 2
        return [*self.predict(records[:middle]), *self.predict(records[middle:])]

    def _predicted(self, records: Sequence[dict[str, Any]]) -> list[Any]:
        batches = [list(records[at : at + RECORDS]) for at in range(0, len(records), RECORDS)]
        found = self._all("/v1/predict", [{"model": self.name, "records": batch} for batch in batches])
        answers = [_list(each, "answers") for each in found]
        short = [at for at, batch in enumerate(batches) if len(answers[at]) != len(batch)]
        if short:
            raise EndpointFailed(
                f"{self.url} gave {len(answers[short[0]])} answers to {len(batches[short[0]])} records",
                "look at its log",
            )
        return [answer for batch in answers for answer in batch]

    def chat(self, texts: Sequence[str], max_tokens: int) -> list[str | Refused]:
        """Returns what a model says to each text as the only message of a conversation, greedily; of one that it
        refuses, the refusal.

        Raises:
            RequestError: The key or the model is refused.
            EndpointFailed: It does not answer.
        """
        bodies = [
            {"model": self.name, "max_tokens": max_tokens, "temperature": 0.0, "messages": [_user(text)]}
            for text in texts
        ]
        said: list[str | Refused] = []
        for found in self._all("/v1/chat/completions", bodies, may_refuse=True):
            if isinstance(found, Refused):
                said.append(found)
                continue
            choices = _list(found, "choices")
            message = choices[0].get("message") if choices and isinstance(choices[0], dict) else None
            if not isinstance(message, dict):
                raise EndpointFailed(
                    f"{self.url} answered a conversation without a message", "is it OpenAI's protocol?"
                )
            said.append(str(message.get("content") or ""))
        return said

    def _all(self, path: str, bodies: Sequence[Any], may_refuse: bool = False) -> list[Any]:
        def ask(body: Any) -> Any:
            try:
                return self._ask(path, body)
            except Refused as refused:
                if may_refuse:
                    return refused
                raise

        with ThreadPoolExecutor(self.streams) as pool:
            return list(pool.map(ask, bodies))

    def _ask(self, path: str, body: Any = None) -> Any:
        """Returns the answer to one request; busy endpoints are asked again."""
        data = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        request = urllib.request.Request(self.url.rstrip("/") + path, data, headers)
        for pause in (*_PATIENCE, None):
            try:
                with _opener.open(request, timeout=self.timeout) as response:
                    return json.loads(response.read(MAX_ANSWER_BYTES))
            except urllib.error.HTTPError as error:
                said = _message(error)
                if error.code in (401, 403):
                    raise RequestError(
                        f"{self.url} refuses the key: {said}", "set it in the variable `key_env`"
                    ) from None
                if error.code not in _BUSY:
                    kind = Refused if error.code in _REFUSED else EndpointFailed
                    raise kind(f"{self.url}{path} answered {error.code}: {said}", "see what it says") from None
                if pause is None:
                    raise EndpointFailed(
                        f"{self.url} is busy ({error.code}): {said}", "give it fewer `streams`"
                    ) from None
                time.sleep(max(pause, min(_LONGEST_WAIT, _seconds(error.headers.get("Retry-After")))))
            except (OSError, ValueError, http.client.HTTPException) as error:
                if pause is None or isinstance(error, ValueError):
                    raise EndpointFailed(f"{self.url}{path} does not answer: {error}", "is it up?") from None
                time.sleep(pause)
        raise AssertionError("the last try either answers or raises")


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _list(answer: Any, field: str) -> list[Any]:
    found = answer.get(field) if isinstance(answer, dict) else None
    if not isinstance(found, list):
        raise EndpointFailed(
            f"the endpoint's answer has no list {field!r}", "is it an endpoint of llmyard, or OpenAI's?"
        )
    return found


def _message(error: urllib.error.HTTPError) -> str:
    """Returns what an error's body says, in OpenAI's shape or not."""
    body = error.read(10_000).decode("utf-8", "replace")
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200] or str(error.reason)


def _seconds(value: str | None) -> float:
    return float(value) if value is not None and value.isdigit() else 0.0
