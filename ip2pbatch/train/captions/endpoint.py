"""An OpenAI-compatible endpoint as a source of completions: what the authors used, and what inference servers speak."""

from __future__ import annotations

import email.utils
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ip2pbatch.errors import MissingError, ModelError
from ip2pbatch.train.captions.language_model import Completion, Sampling

BUSY = frozenset({408, 409, 429, 500, 502, 503, 504})
LONGEST_WAIT = 300.0  # seconds that a busy server may ask for; who wants more is away


class RefusedError(ModelError):
    """The endpoint is there and does not take a request; `status` is HTTP's."""

    def __init__(self, message: str, status: int, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status


class Endpoint(BaseModel):
    """Where to ask. The key stands in the environment, never in a config."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # Where the model answers changes nothing; only its name decides the captions.
    url: str = Field(pattern=r"^https?://\S+$", exclude=True)  # up to and with /v1
    model: str
    key_from: str = Field("OPENAI_API_KEY", exclude=True)  # the environment variable; one's own server needs none
    at_once: int = Field(8, ge=1, exclude=True)
    retries: int = Field(3, ge=0, exclude=True)
    wait: float = Field(1.0, ge=0, exclude=True)  # seconds before the second try, doubled each time
    timeout: float = Field(60.0, gt=0, exclude=True)


class EndpointSource:
    """`/completions` and `/moderations` of an endpoint."""

    def __init__(self, endpoint: Endpoint, sampling: Sampling) -> None:
        self.endpoint, self.sampling = endpoint, sampling

    def complete(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Completion]:
        """An answer to each prompt, several asked at a time. MissingError where the endpoint does not answer."""
        with ThreadPoolExecutor(self.endpoint.at_once) as pool:
            return list(pool.map(self._complete, prompts, seeds))

    def _complete(self, prompt: str, seed: int) -> Completion:
        body = {
            "model": self.endpoint.model, "prompt": prompt, "max_tokens": self.sampling.max_tokens,
            "temperature": self.sampling.temperature, "top_p": 1.0, "presence_penalty": 0.0,
            "frequency_penalty": self.sampling.frequency_penalty, "stop": [self.sampling.stop], "seed": seed,
        }  # fmt: skip
        answer = post(self.endpoint, "completions", body)
        try:
            choice = answer["choices"][0]
            text, finished = str(choice["text"]), choice.get("finish_reason") != "length"
        except (KeyError, IndexError, TypeError) as error:
            said = f"{self.endpoint.url} gave no completion: {json.dumps(answer)[:200]}"
            hint = "it must answer POST /completions as OpenAI's API does; check that the url ends in /v1"
            raise ModelError(said, hint=hint) from error
        tokens = (answer.get("usage") or {}).get("completion_tokens") or 0
        return Completion(text.partition(self.sampling.stop)[0], int(tokens), finished)

    def flagged(self, texts: Sequence[str]) -> list[bool]:
        """What the endpoint's own moderation refuses."""
        if not texts:
            return []
        answer = post(self.endpoint, "moderations", {"input": list(texts)})
        try:
            return [bool(one["flagged"]) for one in answer["results"]]
        except (KeyError, TypeError) as error:
            said = f"{self.endpoint.url} has no moderation: {json.dumps(answer)[:200]}"
            raise ModelError(said, hint="remove `moderation`, or name an endpoint that answers /moderations") from error


def post(
    endpoint: Endpoint, path: str, body: Mapping[str, Any], pause: Callable[[float], object] = time.sleep
) -> dict[str, Any]:
    """One request, tried again while the server is busy or away, after as long as it asks for. MissingError when it
    stays so, RefusedError where it refuses the request.
    """
    url, key = f"{endpoint.url.rstrip('/')}/{path}", key_of(endpoint)
    request, said, asked = urllib.request.Request(url, json.dumps(body).encode(), headers_with(key)), "", 0.0
    for attempt in range(endpoint.retries + 1):
        if attempt:
            pause(max(asked, endpoint.wait * 2 ** (attempt - 1)))
        try:
            with urllib.request.urlopen(request, timeout=endpoint.timeout) as answer:
                return read_object(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                said, asked = f"{error.code}: {told(error, key)}", asked_for(error.headers.get("Retry-After"))
            if error.code not in BUSY:
                raise refusal(endpoint, url, error.code, said) from None
            if asked > LONGEST_WAIT:
                said += f"; it asks to wait {asked:,.0f} s"
                break
        except (OSError, ValueError, http.client.HTTPException) as error:
            said, asked = str(getattr(error, "reason", error)) or type(error).__name__, 0.0
    raise MissingError(f"{url} does not answer ({said})", hint="run again when it does: what is done is kept")


def refuse_away(endpoint: Endpoint) -> None:
    """MissingError where nobody answers, RefusedError where the key is refused: found before work is done for it.

    Asks for the list of models; a server that has none is there all the same.
    """
    url, key = f"{endpoint.url.rstrip('/')}/models", key_of(endpoint)
    try:
        urllib.request.urlopen(urllib.request.Request(url, headers=headers_with(key)), timeout=endpoint.timeout).close()
    except urllib.error.HTTPError as error:
        with error:
            if error.code in (401, 403):
                raise refusal(endpoint, url, error.code, f"{error.code}: {told(error, key)}") from None
    except (OSError, http.client.HTTPException) as error:
        said = str(getattr(error, "reason", error)) or type(error).__name__
        raise MissingError(f"{url} does not answer ({said})", hint="run again when it does") from error


def key_of(endpoint: Endpoint) -> str:
    """The key, "" where the environment has none."""
    return os.environ.get(endpoint.key_from, "")


def headers_with(key: str) -> dict[str, str]:
    """What a request is sent with."""
    return {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})


def refusal(endpoint: Endpoint, url: str, status: int, said: str) -> RefusedError:
    """The error of a request that was refused."""
    hint = f"check the model's name and the key in {endpoint.key_from}"
    return RefusedError(f"{url} refused the request ({said})", status, hint=hint)


def read_object(data: bytes) -> dict[str, Any]:
    """The object in a body. ValueError where there is none."""
    found = json.loads(data)
    if not isinstance(found, dict):
        raise ValueError("it answers with something that is no JSON object")
    return found


def told(error: urllib.error.HTTPError, key: str) -> str:
    """The beginning of what a server says of an error, without the key, which some repeat."""
    try:
        text = error.read(300).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return str(error.reason)
    return text.replace(key, "…") if key else text


def asked_for(retry_after: str | None) -> float:
    """Seconds that a Retry-After header asks to wait, which is a number or a date; 0 where it is neither."""
    if retry_after is None:
        return 0.0
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0
