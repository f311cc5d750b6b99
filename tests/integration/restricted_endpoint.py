"""What runs inside the sandbox of test_restricted: a Ray as KubeRay starts it, an endpoint, and who asks it.

Its argument is a JSON file: `config` is the chart's config for Ray Serve, `key` the API key, `closed` folders that must
not be writable, `open` those that must be, `smoke` the chart's `helm test`. It prints one JSON object.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

ENDPOINT, DASHBOARD, AGENT = "http://127.0.0.1:8000", "http://127.0.0.1:8265", "http://127.0.0.1:52365"


def call(url: str, token: str = "", body: Any = None, method: str | None = None) -> tuple[int, str]:
    """Returns the status and text of an answer; 0 and the reason where nothing answers."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method), timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def wait_for(url: str, seconds: float) -> None:
    """Waits for a 200, as KubeRay's and the chart's probes do."""
    deadline = time.monotonic() + seconds
    while (found := call(url))[0] != 200:
        if time.monotonic() > deadline:
            sys.exit(f"{url} answers {found}")
        time.sleep(0.3)


def writable(folder: str) -> bool:
    try:
        with tempfile.NamedTemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def process() -> dict[str, Any]:
    """Returns who this is and what it may do."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    status = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return {
        "user": [os.getuid(), os.geteuid(), os.getgid()],
        "capabilities": sorted({int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}),
        "no_new_privileges": status["NoNewPrivs"],
        "interfaces": sorted(name for name in os.listdir("/sys/class/net")) if os.path.isdir("/sys/class/net") else
        [line.split(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines()[2:]],
    }  # fmt: skip


def serve(config: Any, token: str) -> None:
    """Gives Ray Serve its config as KubeRay does, and waits until the application runs."""
    url = f"{DASHBOARD}/api/serve/applications/"
    status, said = call(url, token, config, "PUT")
    if status != 200:
        sys.exit(f"Ray Serve takes the config with {status}: {said}")
    while (app := json.loads(call(url, token)[1])["applications"].get("llmyard", {})).get("status") != "RUNNING":
        if app.get("status") in ("DEPLOY_FAILED", "UNHEALTHY"):
            sys.exit(f"the application is {app['status']}: {app['message']} {app['deployments']}")
        time.sleep(0.5)


def main() -> None:
    asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    found: dict[str, Any] = {"process": process()}
    found["written"] = [each for each in asked["closed"] if writable(each)]
    found["unwritable"] = [each for each in asked["open"] if not writable(each)]
    options = "--head --num-cpus=2 --object-store-memory=100000000 --dashboard-host=0.0.0.0 --block"
    with open("/tmp/ray-start.log", "wb") as log:
        subprocess.Popen(["/bin/bash", "-c", f"ulimit -n 65536; ray start {options}"], stdout=log, stderr=log)
    wait_for(f"{AGENT}/api/healthz", 180)
    wait_for(f"{DASHBOARD}/api/gcs_healthz", 60)
    serve(asked["config"], Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text(encoding="utf-8").strip())
    wait_for(f"{ENDPOINT}/-/healthz", 60)
    body = {"text": asked["text"], "target_language": "en"}
    found["without_key"] = call(f"{ENDPOINT}/v1/translate", "", body)[0]
    found["wrong_key"] = call(f"{ENDPOINT}/v1/translate", "ly-wrong", body)[0]
    found["with_key"] = call(f"{ENDPOINT}/v1/translate", asked["key"], body)
    sys.argv = ["smoke", ENDPOINT, DASHBOARD]
    try:
        runpy.run_path(asked["smoke"], run_name="__main__")
    except SystemExit as ended:
        found["smoke"] = ended.code
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
