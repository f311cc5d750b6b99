"""Clients of an endpoint, in a process of their own: asks until it is told to end, then prints what came of it.

python tests/chaos/_asking.py URL KEY MODEL CLIENTS
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections import Counter
from typing import Any

SECONDS = 60.0  # that an answer may take
PAUSE = 0.05


async def ask_on(
    session: Any, url: str, model: str, ended: asyncio.Event, seen: Counter[str], worst: list[float]
) -> None:
    """Asks one thing after another; an answer that breaks off counts by its error's name."""
    body = {"model": model, "prompt": "One morning", "max_tokens": 4, "temperature": 0}
    while not ended.is_set():
        began = time.monotonic()
        try:
            async with session.post(f"{url}/v1/completions", json=body) as answer:
                text = await answer.text()
                seen[str(answer.status)] += 1
                if answer.status != 200:
                    print(answer.status, text[:300], file=sys.stderr, flush=True)
        except Exception as error:
            seen[type(error).__name__] += 1
            print(repr(error), file=sys.stderr, flush=True)
        worst[0] = max(worst[0], time.monotonic() - began)
        await asyncio.sleep(PAUSE)


async def main(url: str, key: str, model: str, clients: int) -> None:
    """Asks by many clients at a time."""
    import aiohttp

    ended, seen, worst = asyncio.Event(), Counter[str](), [0.0]
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    options = {"headers": {"Authorization": f"Bearer {key}"}, "timeout": aiohttp.ClientTimeout(SECONDS)}
    async with aiohttp.ClientSession(**options) as session:
        await asyncio.gather(*(ask_on(session, url, model, ended, seen, worst) for _ in range(clients)))
    print(json.dumps({"statuses": seen, "slowest_seconds": round(worst[0], 2)}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
