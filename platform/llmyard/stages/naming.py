"""How stages name what they make and what they begin with."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from llmyard.core.artifacts import check_name
from llmyard.core.config import Config, located
from llmyard.core.errors import RequestError


def _name(value: str) -> str:
    try:
        return check_name(value)
    except RequestError as error:
        raise ValueError(f"{error.what}: {error.remedy}") from None


Name = Annotated[str, AfterValidator(_name)]


HUB = "hub:"  # begins the name of a model that is not in the store yet


def _begin(value: str) -> str:
    named = value.removeprefix(HUB)
    if named == value:
        return value
    if named.startswith(("/", "~", "$", ".")):
        return HUB + located(named)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", named):
        raise ValueError(f"{value!r} is neither hub:ORGANISATION/MODEL[@REVISION] nor hub:FOLDER")
    return value


Init = Annotated[str, AfterValidator(_begin)]
INIT = "`scratch`, the name of a checkpoint to go on from, `hub:ORGANISATION/MODEL@REVISION`, or `hub:FOLDER`."


class Stage(Config):
    """Fields of every stage."""

    output: Name = Field(description="Name of the artifact that the stage makes.")


def hub_name(init: str) -> str:
    """Returns the name that a model of the hub, or of a folder, gets in the store; its tokenizer gets it too."""
    named = init.removeprefix(HUB).partition("@")[0]
    named = named.rstrip("/").rpartition("/")[2] if named.startswith("/") else named
    return "hub-" + re.sub(r"[^A-Za-z0-9._-]+", "-", named).replace("..", "-")[:90]
