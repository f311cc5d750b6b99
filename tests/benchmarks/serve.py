"""What serving costs: the engine beside CTranslate2 and `generate` of transformers, HTTP beside bare uvicorn.

    bash cluster/local bench serve [--part engine http start] [--rounds 3] [--json]

`engine`: models of random weights in the shapes below, 8 bits, answers of equal length, 8 and 32 under way at any time,
prompts of mixed lengths; the engines take turns, the ratio of each round's rates is taken, and the median told. `http`:
the endpoint's own application with a model that costs nothing (it says prepared tokens), so that what HTTP costs is
seen: under uvicorn, and in Ray Serve behind its own proxy and behind HAProxy; beside it a bare application under
uvicorn that says the same bytes. `start`: from the command to the first answer of an authenticated endpoint.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _served import BODY, KEY, TOKENS

HERE = Path(__file__).resolve().parent
NEW_TOKENS, VOCABULARY, POSITIONS = 48, 4_000, 512
STREAMS = 32
WAYS = ("bare", "uvicorn", "serve", "haproxy")
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"layers": 6, "hidden_size": 512, "heads": 8},
    "llama": {"layers": 6, "hidden_size": 512, "heads": 8},
    "t5": {"hidden_size": 512, "heads": 8, "encoder_layers": 4, "decoder_layers": 4, "feed_forward_size": 1024},
    "transformer": {
        "hidden_size": 512, "heads": 8, "encoder_layers": 4, "decoder_layers": 4, "feed_forward_size": 1024,
    },
}  # fmt: skip


def engines(rounds: int) -> dict[str, float]:
    """Returns the ratios of TorchEngine's rate (8 bits) to CTranslate2's (8 bits) and to transformers' `generate`."""
    from llmyard.compression.ctranslate2_export import export
    from llmyard.compression.quantizing import Scheme, quantize
    from llmyard.generation.ctranslate2_engine import CTranslate2Engine
    from llmyard.generation.timing import time_writing
    from llmyard.generation.torch_engine import TorchEngine
    from llmyard.models.families import load, save
    from llmyard.tokens.tokenizer import FILE

    found: dict[str, float] = {}
    for family in SHAPES:
        with tempfile.TemporaryDirectory(prefix="ly-bench-") as folder:
            home = Path(folder)
            tokenizer = _saved(family, home / "float")
            small: Any = load(home / "float")
            quantize(small, Scheme("int8_dynamic"))
            save(small, home / "int8")
            tokenizer.save(home / "int8" / FILE)
            export(home / "float", home / "ct2", weights="int8")
            own = TorchEngine.load(home / "int8", threads=os.cpu_count())
            other = CTranslate2Engine.load(home / "ct2", threads=os.cpu_count())
            plain = None if family == "transformer" else load(home / "float")  # ours has no `generate`
            prompts = [[9 + (at * 7 + i * 3) % (VOCABULARY - 20) for i in range(8 + at % 24)] for at in range(64)]
            for streams in (8, STREAMS):
                some = prompts[: 2 * streams]
                time_writing(own, some[:streams], streams, 8), time_writing(other, some[:streams], streams, 8)
                beside, before = [], []
                for _ in range(rounds):
                    mine, its = (time_writing(each, some, streams, NEW_TOKENS).rate for each in (own, other))
                    beside.append(mine / its)
                    if plain is not None:
                        before.append(mine / _generated(plain, some, streams, tokenizer.pad_id))
                found[f"engine_vs_ct2_int8_c{streams}_{family}"] = statistics.median(beside)
                if before:
                    found[f"engine_vs_hf_c{streams}_{family}"] = statistics.median(before)
            own.close()
            other.close()
    for streams in (8, STREAMS):
        ratios = [value for key, value in found.items() if key.startswith(f"engine_vs_ct2_int8_c{streams}_")]
        found[f"engine_vs_ct2_int8_c{streams}"] = min(ratios)
    found["engine_vs_hf_c8"] = min(value for key, value in found.items() if key.startswith("engine_vs_hf_c8_"))
    return found


def _saved(family: str, folder: Path) -> Any:
    """Saves a model of random weights and returns its tokenizer."""
    import torch
    from pydantic import TypeAdapter

    from llmyard.models.config import Model
    from llmyard.models.families import build, save
    from llmyard.sources.smallworld import SmallWorld
    from llmyard.tokens.config import BpeTokenizer
    from llmyard.tokens.tokenizer import FILE, Tokenizer

    world = SmallWorld(profile="dev", seed=1)
    pairs = [world.example("translation", "train", at) for at in range(3_000)]
    texts = [each[side] for each in pairs for side in ("source", "target")]
    tokenizer = Tokenizer.train(texts, BpeTokenizer(vocab_size=VOCABULARY))
    torch.manual_seed(1)
    shape: Any = TypeAdapter(Model).validate_python({"family": family, **SHAPES[family]})
    ids = {"vocab_size": tokenizer.vocab_size, "pad_id": tokenizer.pad_id, "end_id": tokenizer.end_id}
    save(build(shape, **ids, max_tokens=POSITIONS).eval(), folder)
    tokenizer.save(folder / FILE)
    return tokenizer


def _generated(model: Any, prompts: Sequence[Sequence[int]], streams: int, pad_id: int) -> float:
    """Returns the rate of `generate` in batches of so many."""
    import torch

    began = time.perf_counter()
    for at in range(0, len(prompts), streams):
        some = prompts[at : at + streams]
        longest = max(map(len, some))
        ids = torch.tensor([[pad_id] * (longest - len(each)) + list(each) for each in some])
        mask = torch.tensor([[0] * (longest - len(each)) + [1] * len(each) for each in some])
        with torch.inference_mode():
            model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS,
                do_sample=False, pad_token_id=pad_id,
            )  # fmt: skip
    return len(prompts) * NEW_TOKENS / (time.perf_counter() - began)


async def _stream(port: int) -> tuple[float, float, int]:
    """Returns the seconds to the first piece of an answer, to its end, and how many pieces came."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps(BODY).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    began = time.perf_counter()
    writer.write(head.encode() + body)
    first, pieces = None, 0
    while data := await reader.read(1 << 16):
        count = data.count(b"data: ")
        if count and first is None:
            first = time.perf_counter() - began
        pieces += count
    writer.close()
    if first is None or pieces < TOKENS:
        raise SystemExit(f"port {port}: {pieces} pieces came of {TOKENS}")
    return first, time.perf_counter() - began, pieces


async def _many(port: int) -> list[float]:
    return [first for first, _, _ in await asyncio.gather(*(_stream(port) for _ in range(STREAMS)))]


def http(rounds: int) -> dict[str, float]:
    """Returns what a token costs as a stream, and how long the first one takes beside 31 other streams."""
    ports, processes = {}, []
    costs: dict[str, list[float]] = {way: [] for way in WAYS}
    firsts: dict[str, list[float]] = {way: [] for way in WAYS}
    try:
        for way in WAYS:
            ports[way] = _free_port()
            command = [sys.executable, str(HERE / "_served.py"), way, str(ports[way])]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            processes.append(process)
            assert process.stdout is not None
            if "ready" not in process.stdout.readline():
                raise SystemExit(f"{way} did not start")
        for turn in range(rounds + 1):
            for way, port in ports.items():
                first, whole, pieces = asyncio.run(_stream(port))
                crowd = asyncio.run(_many(port))
                if turn:  # the first round warms up
                    costs[way].append(1e6 * (whole - first) / pieces)
                    firsts[way].append(statistics.median(crowd))
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(60)
    found = {f"stream_us_{way}": statistics.median(each) for way, each in costs.items()}
    found |= {f"ttfb_32_ms_{way}": 1000 * statistics.median(each) for way, each in firsts.items()}
    for way in WAYS[1:]:
        ratios = [mine / bare for mine, bare in zip(costs[way], costs["bare"], strict=True)]
        waits = [mine / bare for mine, bare in zip(firsts[way], firsts["bare"], strict=True)]
        found |= {f"stream_vs_bare_{way}": statistics.median(ratios), f"ttfb_vs_bare_{way}": statistics.median(waits)}
    return found | {
        "stream_us_vs_uvicorn": found["stream_vs_bare_haproxy"],
        "ttfb_vs_uvicorn_32": found["ttfb_vs_bare_haproxy"],
    }


def start() -> dict[str, float]:
    """Returns the seconds from the command that serves a checkpoint to its first answer."""
    import urllib.request

    from llmyard.core.artifacts import ArtifactStore
    from llmyard.core.storage import Storage

    with tempfile.TemporaryDirectory(prefix="ly-bench-", dir="/tmp") as folder:
        store = ArtifactStore(Storage(folder))
        with store.begin("checkpoint", "base", "1") as draft:
            _saved("gpt2", Path(draft.uri))
            draft.commit(config={}, parents=(), metrics={})
        port, began = _free_port(), time.perf_counter()
        command = [sys.executable, "-m", "llmyard", "serve", "base", "--port", str(port), "--storage", folder]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        try:
            assert process.stdout is not None
            key = next(word for line in process.stdout for word in line.split() if word.startswith("ly-"))
            body = json.dumps({"model": "base", "prompt": "有一天", "max_tokens": 8}).encode()
            headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
            request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/completions", body, headers)
            with urllib.request.urlopen(request, timeout=120) as answer:
                json.loads(answer.read())
            return {"checkpoint_to_endpoint_seconds": time.perf_counter() - began}
        finally:
            process.terminate()
            process.wait(60)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=["engine", "http", "start"], default=["engine", "http", "start"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    figures: dict[str, float] = {}
    if "engine" in given.part:
        figures |= engines(given.rounds)
    if "http" in given.part:
        figures |= http(given.rounds)
    if "start" in given.part:
        figures |= start()
    print(json.dumps(figures) if given.json else "\n".join(f"{key}: {value:.3f}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
