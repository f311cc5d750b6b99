"""The playground's files and routes: what is answered, with which headers, and that the files fit together."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from llmyard.serving.api import build_api
from llmyard.serving.keys import KeyRing, hash_of
from llmyard.serving.playground_files import FILES, FOLDER, INDEX, PLAYGROUND_PATHS, add_playground

TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
SCRIPTS = [name for name in FILES if name.endswith(".js") and not name.startswith("texts_")]
# What a text stands for is given here: a tag, or a call that takes the text's name.
NAMED = re.compile(
    r"""data-(?:text|label)="(\w+)"
    |\b(?:text|label|placeholder|title|run):\s*\[?"(\w+)"
    |\b(?:text|heading|field|option\("\w+",\s*|Failure)\(?\s*"(\w+)"
    |\bsay\([^;]*?,\s*"(\w+)"
    |key:\s*"(\w+)"
    """,
    re.VERBOSE,
)
COMPOSED = re.compile(r"`(\w+_)\$\{")


def read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def texts(language: str) -> dict[str, Any]:
    """The texts of a language: the module holds one JSON object."""
    content = read(f"texts_{language}.js")
    return dict(json.loads(content[content.index("{") : content.rindex("}") + 1]))


def forms(said: Any) -> list[str]:
    return [said] if isinstance(said, str) else list(said.values())


def ask(api: FastAPI, path: str, **headers: str) -> httpx.Response:
    async def send() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://x") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(send())


@pytest.fixture(scope="module")
def api() -> FastAPI:
    made = FastAPI()
    add_playground(made)
    return made


def test_the_list_of_files_is_the_folder() -> None:
    assert sorted([*FILES, INDEX]) == sorted(path.name for path in FOLDER.iterdir())
    assert len(set(FILES)) == len(FILES)
    assert set(PLAYGROUND_PATHS) == {"/", *(f"/playground/{name}" for name in FILES)}
    for path in FOLDER.iterdir():
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path.name


@pytest.mark.parametrize("path", PLAYGROUND_PATHS)
def test_each_file_comes_with_its_type_and_strict_headers(api: FastAPI, path: str) -> None:
    answer = ask(api, path)
    name = INDEX if path == "/" else path.rpartition("/")[2]
    assert answer.status_code == 200
    assert answer.content == (FOLDER / name).read_bytes()
    assert answer.headers["content-type"] == f"{TYPES[name.rpartition('.')[2]]}; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-cache"
    policy = dict(rule.split(" ", 1) for rule in answer.headers["content-security-policy"].split("; "))
    assert policy == {
        "default-src": "'none'", "script-src": "'self'", "style-src": "'self'", "connect-src": "'self'",
        "img-src": "data:", "base-uri": "'none'", "form-action": "'none'", "frame-ancestors": "'none'",
    }  # fmt: skip


def test_a_copy_that_is_still_right_is_not_sent_again(api: FastAPI) -> None:
    whole = ask(api, "/playground/api.js")
    tag = whole.headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        answer = ask(api, "/playground/api.js", **{"If-None-Match": known})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)
        assert answer.headers["content-security-policy"] == whole.headers["content-security-policy"]
    for unknown in ('"other"', tag.strip('"'), ""):
        assert ask(api, "/playground/api.js", **{"If-None-Match": unknown}).status_code == 200
    assert ask(api, "/playground/dom.js").headers["etag"] != tag


@pytest.mark.parametrize(
    "name",
    [
        "absent.js", "index.html", "", "..%2Fapi.py", "%2e%2e/api.py", "..%5Capi.py", "api.js%00", "API.js",
        "%2Fetc%2Fpasswd", "翻译.js",
    ],
)  # fmt: skip
def test_nothing_else_is_answered(api: FastAPI, name: str) -> None:
    assert ask(api, f"/playground/{name}").status_code == 404


def test_the_page_is_open_and_the_models_behind_it_are_not() -> None:
    api = build_api([], KeyRing.of([hash_of("ly-right")]))
    for path in PLAYGROUND_PATHS:
        assert ask(api, path).status_code == 200, path
    for path in ("/v1/models", "/playground/absent.js", "/playground/index.html", "/playground/..%2Fapi.py"):
        assert ask(api, path).status_code == 401, path
    document = ask(api, "/openapi.json").json()
    assert not [path for path in document["paths"] if path == "/" or "playground" in path]


def test_every_text_is_there_in_both_languages() -> None:
    english, chinese = texts("en"), texts("zh")
    assert list(english) == list(chinese)
    for key, said in english.items():
        wanted = {frozenset(re.findall(r"\{(\w+)\}", each)) for each in forms(said)}
        assert {frozenset(re.findall(r"\{(\w+)\}", each)) for each in forms(chinese[key])} == wanted, key
        assert all(each.strip() for each in [*forms(said), *forms(chinese[key])]), key
        assert not re.search("[\u4e00-\u9fff]", "".join(forms(said))) or key == "example_zh", key
        letters = re.sub(r"\{\w+\}", "", "".join(forms(chinese[key])))
        assert re.search("[\u4e00-\u9fff]", letters) or not letters or key == "example_en", key
        assert isinstance(said, str) or set(said) == {"one", "other"}, key


def test_every_text_that_is_named_exists_and_every_one_that_exists_is_used() -> None:
    known, used = set(texts("en")), set()
    for name in [INDEX, *SCRIPTS]:
        content = re.sub(r"^const SAID = .*$", "", read(name), flags=re.MULTILINE)  # attributes, not texts
        named = {group for found in NAMED.findall(content) for group in found if group}
        assert named <= known, (name, named - known)
        composed = COMPOSED.findall(content)
        used |= {key for key in known if f'"{key}"' in content or any(key.startswith(each) for each in composed)}
    assert known - used == set()


def imports() -> Iterator[tuple[str, list[str], str]]:
    """What each module takes from which other one."""
    for name in SCRIPTS:
        for names, module in re.findall(r'^import (.+?) from "\./(\S+)";$', read(name), re.MULTILINE):
            yield name, re.findall(r"\w+", names) if names.startswith("{") else [], module


def test_modules_fit_together() -> None:
    near: dict[str, set[str]] = {}
    for name, taken, module in imports():
        near.setdefault(name, set()).add(module)
        assert module in FILES, (name, module)
        given = set(re.findall(r"^export (?:async )?(?:function\*?|const|class) (\w+)", read(module), re.MULTILINE))
        assert set(taken) <= given, (name, module)
        body = re.sub(r"^import .*$", "", read(name), flags=re.MULTILINE)
        assert [each for each in taken if not re.search(rf"\b{each}\b", body)] == [], name
    reached = {"main.js"}
    while added := {module for name in reached for module in near.get(name, ())} - reached:
        reached |= added
    assert reached == {name for name in FILES if name.endswith(".js")}
    mentioned = re.findall(r'(?:href|src)="(playground/[^"]+)"', read(INDEX))
    assert sorted(mentioned) == sorted(f"playground/{name}" for name in ("base.css", "parts.css", "main.js"))


def test_nothing_comes_from_elsewhere_and_nothing_is_inline() -> None:
    for name in [INDEX, *FILES]:
        content = read(name)
        addresses = set(re.findall(r"(?:https?:)?//[a-z][\w.-]+\.[a-z]+[^\s\"'`<>]*", content))
        assert all(each.startswith("http://www.w3.org/") for each in addresses), (name, addresses)
        unwanted = r"@import|\burl\((?!#)|innerHTML|outerHTML|insertAdjacentHTML|document\.write"
        assert not re.search(unwanted, content), name
        assert not re.search(r"\beval\(|new Function|localStorage|document\.cookie", content), name
    page = read(INDEX)
    assert not re.search(r"<style|<script(?![^>]*src=)|\sstyle=|\son\w+=", page)
    assert re.findall(r"<script[^>]*>(.*?)</script>", page) == [""]


def test_controls_of_the_frame_have_texts() -> None:
    page = read(INDEX)
    for tab in ("translate", "summarize", "answer", "chat", "extract"):
        assert f'id="tab-{tab}"' in page
        assert f'aria-labelledby="tab-{tab}"' in page
        for language in ("en", "zh"):
            assert texts(language)[f"tab_{tab}"]
            assert texts(language)[f"none_{tab}"]
