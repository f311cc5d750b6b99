"""What `helm test` runs: each address must answer within the time, and refuse a caller who shows no key."""

import os
import sys
import time
import urllib.error
import urllib.request


def status(url: str) -> int:
    """Returns the HTTP status of a GET; 0 where nothing answers."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def check(base: str, deadline: float) -> str:
    """Returns what is wrong with an endpoint, or with Ray's dashboard at port 8265; "" if nothing is."""
    is_dashboard = base.endswith(":8265")
    alive, closed = ("/", "/api/jobs/") if is_dashboard else ("/health", "/v1/models")
    while (found := status(base + alive)) != 200:
        if time.monotonic() > deadline:
            return f"{alive} answers {found or 'nothing'} instead of 200"
        time.sleep(2)
    refused = status(base + closed)
    return "" if refused in (401, 403) else f"{closed} answers {refused} without a key instead of 401"


def main() -> int:
    """Returns the exit status."""
    deadline = time.monotonic() + float(os.environ.get("TIMEOUT_SECONDS", "60"))
    failed = 0
    for base in sys.argv[1:]:
        wrong = check(base, deadline)
        sys.stdout.write(f"{base}: {wrong or 'ok'}\n")
        failed += bool(wrong)
    return failed


if __name__ == "__main__":
    sys.exit(main())
