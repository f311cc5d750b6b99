"""What is decided without Ray: whether a port is free, and why an endpoint did not start."""

from __future__ import annotations

import socket

import pytest

from llmyard.core.errors import RequestError
from llmyard.serving.endpoint import reason_of, require_free


def test_a_taken_port_is_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RequestError, match=f"cannot listen at 127.0.0.1:{port}"):
            require_free("127.0.0.1", port)
    require_free("127.0.0.1", port)
    with pytest.raises(RequestError, match="cannot listen"):
        require_free("192.0.2.77", port)  # an address of documentation: no machine has it


def test_the_reason_is_the_last_error_of_a_trace() -> None:
    trace = (
        'The deployment failed. Error:\n  File "a.py", line 1, in f\n    g()\n    ^^^\nValueError: a\n\n'
        'Traceback (most recent call last):\n  File "b.py", line 2, in g\n    raise it\n'
        "llmyard.core.errors.RequestError: no model\n  remedy: name one"
    )
    assert reason_of(trace) == "no model\n  remedy: name one"
    assert reason_of("the replica is gone") == "the replica is gone"
    assert reason_of("") == ""
