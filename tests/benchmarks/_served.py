"""An endpoint whose model costs nothing, for `serve.py`: `python _served.py bare|uvicorn|serve|haproxy PORT`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

KEY, TOKENS = "ly-benchmark", 2_000
TEXT = "词 word "
BODY = {"model": "said", "messages": [{"role": "user", "content": "x"}], "max_tokens": TOKENS, "stream": True}
_CHUNK = (
    b'data: {"id":"chatcmpl-0123456789abcdef0123456789abcdef","object":"chat.completion.chunk","created":1790000000,'
    b'"model":"said","choices":[{"index":0,"delta":{"content":"%s"},"logprobs":null,"finish_reason":null}]}\n\n'
) % TEXT.encode()


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """Says the same bytes, and does nothing else."""
    if scope["type"] != "http":
        return
    await receive()
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for _ in range(TOKENS):
        await send({"type": "http.response.body", "body": _CHUNK, "more_body": True})
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


def api() -> Any:
    """Returns the endpoint's application with a model that says prepared tokens."""
    from llmyard.generation.engine import Capabilities, Delta, GenerateRequest, Stats
    from llmyard.generation.model import Model
    from llmyard.serving.api import build_api
    from llmyard.serving.config import Limits
    from llmyard.serving.keys import KeyRing, hash_of
    from llmyard.tokens.config import BpeTokenizer
    from llmyard.tokens.tokenizer import Tokenizer

    class Saying:
        def capabilities(self) -> Capabilities:
            return Capabilities("checkpoint/said@1", "gpt2", True, False, 100)

        async def generate(self, request: GenerateRequest) -> AsyncGenerator[Delta]:
            for _ in range(request.max_new_tokens - 1):
                yield Delta((5,), TEXT)
            yield Delta((5,), TEXT, "length")

        def abort(self, request_id: str) -> None:
            return

        def stats(self) -> Stats:
            return Stats()

    words = Tokenizer.train(["x word 词"] * 3, BpeTokenizer(vocab_size=300))
    engine: Any = Saying()
    limits = Limits(max_new_tokens=TOKENS, max_tokens_under_way=1 << 30)
    return build_api([Model("checkpoint/said@1", "said", engine, words, None)], KeyRing.of([hash_of(KEY)]), limits)


def main() -> None:
    """Serves until it is told to end."""
    way, port = sys.argv[1], int(sys.argv[2])
    if way in ("bare", "uvicorn"):
        import uvicorn

        class Told(uvicorn.Server):
            async def startup(self, sockets: Any = None) -> None:
                await super().startup(sockets)
                print("ready", flush=True)

        app = bare if way == "bare" else api()
        Told(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", access_log=False)).run()
        return
    from llmyard.serving.endpoint import set_environment

    set_environment(haproxy=way == "haproxy")
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    from ray import serve
    from ray.serve.config import HTTPOptions
    from ray.serve.schema import LoggingConfig

    from llmyard.runtime.session import session

    with session():
        serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port))
        made: Any = serve.deployment(serve.ingress(api)())
        app = made.options(max_ongoing_requests=128, ray_actor_options={"num_cpus": 0}).bind()
        serve.run(app, logging_config=LoggingConfig(log_level="ERROR", enable_access_log=False))
        print("ready", flush=True)
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    main()
