"""An OpenAI-compatible endpoint as a source of completions: what the authors used, and what inference servers speak."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ip2pbatch.errors import MissingError, ModelError
from ip2pbatch.train.captions.language_model import Completion, Sampling

BUSY = frozenset({408, 409, 429, 500, 502, 503, 504})


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
        answer = self.post("completions", body)
        try:
            choice = answer["choices"][0]
            text, finished = str(choice["text"]), choice.get("finish_reason") != "length"
        except (KeyError, IndexError, TypeError) as error:
            raise ModelError(f"{self.endpoint.url} gave no completion: {json.dumps(answer)[:200]}") from error
        tokens = (answer.get("usage") or {}).get("completion_tokens") or 0
        return Completion(text.partition(self.sampling.stop)[0], int(tokens), finished)

    def flagged(self, texts: Sequence[str]) -> list[bool]:
        """What the endpoint's own moderation refuses."""
        if not texts:
            return []
        answer = self.post("moderations", {"input": list(texts)})
        try:
            return [bool(one["flagged"]) for one in answer["results"]]
        except (KeyError, TypeError) as error:
            raise ModelError(f"{self.endpoint.url} has no moderation: {json.dumps(answer)[:200]}") from error

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """One request, tried again while the server is busy or away. MissingError when it stays so, ModelError where it
        refuses the request."""
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self.endpoint.key_from):
            headers["Authorization"] = f"Bearer {key}"
        url = f"{self.endpoint.url.rstrip('/')}/{path}"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        for attempt in range(self.endpoint.retries + 1):
            if attempt:
                time.sleep(self.endpoint.wait * 2 ** (attempt - 1))
            try:
                with urllib.request.urlopen(request, timeout=self.endpoint.timeout) as answer:
                    return dict(json.loads(answer.read()))
            except urllib.error.HTTPError as error:
                with error:
                    said = f"{error.code}: {error.read(300).decode('utf-8', 'replace')}"
                if error.code not in BUSY:
                    hint = f"check the model's name and the key in {self.endpoint.key_from}"
                    raise ModelError(f"{url} refused the request ({said})", hint=hint) from None
            except (OSError, ValueError) as error:
                said = str(getattr(error, "reason", error))
        raise MissingError(f"{url} does not answer ({said})", hint="run again when it does: what is done is kept")
