"""The model server as OpenAI's clients see it: answers, usage, errors; and as a process of the devnet."""

from __future__ import annotations

import base64
import datetime
import json
import ssl
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
import pytest_asyncio

from cloister.core.errors import ConfigError
from cloister.devnet.model.__main__ import read_key
from cloister.devnet.model.server import MAX_INPUTS
from cloister.devnet.model.tls import CA_FILE, CERTIFICATE_FILE, KEY_FILE, server_context
from cloister.devnet.process import Child, spawn

pytestmark = pytest.mark.asyncio(loop_scope="module")
KEY = "sk-test-0123456789"
MODEL = "all-MiniLM-L6-v2"
NOW = datetime.datetime(2026, 11, 22, tzinfo=datetime.UTC)


class Face:
    """A running server and a client that trusts its authority only."""

    def __init__(self, child: Child, session: aiohttp.ClientSession, work: Path) -> None:
        self.child, self.session, self.work = child, session, work

    async def ask(self, method: str, path: str, body: object = None, key: str | None = KEY) -> tuple[int, Any]:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        url = f"https://localhost:{self.child.ready['port']}{path}"
        async with self.session.request(method, url, data=data, headers=headers) as answer:
            return answer.status, await answer.json()

    async def embed(self, **fields: Any) -> tuple[int, Any]:
        return await self.ask("POST", "/v1/embeddings", {"model": MODEL, **fields})


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def face(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Face]:
    work = tmp_path_factory.mktemp("model")
    (work / "key").write_text(KEY + "\n")
    arguments = ["--work", str(work), "--key-file", str(work / "key")]
    child = await spawn("model", "cloister.devnet.model", arguments, log_dir=work / "logs")
    context = ssl.create_default_context(cafile=child.ready["ca"])
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
        yield Face(child, session, work)
    await child.stop()
    assert child.process.returncode == 0
    assert KEY not in (work / "logs" / "model.log").read_text()


async def test_one_text_and_a_list_of_texts(face: Face) -> None:
    status, one = await face.embed(input="hello world")
    assert (status, one["object"], one["model"], len(one["data"])) == (200, "list", MODEL, 1)
    assert len(one["data"][0]["embedding"]) == 384
    assert one["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
    _, many = await face.embed(input=["hello world", "other", "hello world"])
    assert [item["index"] for item in many["data"]] == [0, 1, 2]
    assert np.allclose(many["data"][0]["embedding"], many["data"][2]["embedding"], atol=2e-5)
    assert many["usage"]["total_tokens"] == 11


async def test_base64_and_float_say_the_same(face: Face) -> None:
    _, plain = await face.embed(input="bread", encoding_format="float")
    _, packed = await face.embed(input="bread", encoding_format="base64", user="somebody", dimensions=384)
    unpacked = np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), "<f4")
    assert np.allclose(unpacked, plain["data"][0]["embedding"], atol=1e-6)


async def test_the_model_is_listed(face: Face) -> None:
    status, said = await face.ask("GET", "/v1/models")
    assert status == 200
    assert [model["id"] for model in said["data"]] == [MODEL]


@pytest.mark.parametrize("key", [None, "", "sk-test-wrong", KEY + "x", KEY[:-1], "ü"])
async def test_another_key_is_refused_as_openai_does(face: Face, key: str | None) -> None:
    for method, path in (("POST", "/v1/embeddings"), ("GET", "/v1/models"), ("GET", "/nowhere")):
        status, said = await face.ask(method, path, {} if method == "POST" else None, key)
        assert (status, said["error"]["code"]) == (401, "invalid_api_key")


REFUSED: dict[str, tuple[int, str | None, object]] = {
    "no JSON": (400, None, b"{"),
    "a list": (400, None, []),
    "an unknown field": (400, None, {"model": MODEL, "input": "x", "stream": True}),
    "another model": (404, "model", {"model": "text-embedding-3-small", "input": "x"}),
    "no input": (400, "input", {"model": MODEL}),
    "an empty list": (400, "input", {"model": MODEL, "input": []}),
    "an empty text": (400, "input", {"model": MODEL, "input": [""]}),
    "tokens": (400, "input", {"model": MODEL, "input": [1, 2, 3]}),
    "half a character": (400, "input", {"model": MODEL, "input": "\ud800"}),
    "too many texts": (400, "input", {"model": MODEL, "input": ["x"] * (MAX_INPUTS + 1)}),
    "other dimensions": (400, "dimensions", {"model": MODEL, "input": "x", "dimensions": 256}),
    "another format": (400, "encoding_format", {"model": MODEL, "input": "x", "encoding_format": "int8"}),
}


@pytest.mark.parametrize("sentence", REFUSED)
async def test_a_wrong_request_gets_openais_error(face: Face, sentence: str) -> None:
    status, param, body = REFUSED[sentence]
    answered, said = await face.ask("POST", "/v1/embeddings", body)
    assert (answered, said["error"]["param"]) == (status, param)
    assert said["error"]["type"] == "invalid_request_error"
    assert said["error"]["message"]


async def test_other_routes_and_huge_bodies_get_json_errors(face: Face) -> None:
    assert (await face.ask("GET", "/v1/chat"))[0] == 404
    assert (await face.ask("GET", "/v1/embeddings"))[0] == 405
    assert (await face.ask("POST", "/v1/embeddings", b" " * (9 << 20)))[0] == 413


async def test_a_client_that_does_not_know_the_authority_does_not_connect(face: Face) -> None:
    async with aiohttp.ClientSession() as stranger:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await stranger.get(f"https://localhost:{face.child.ready['port']}/v1/models")


async def test_certificates_are_kept_until_names_or_time_change(tmp_path: Path) -> None:
    def files() -> list[bytes]:
        return [(tmp_path / name).read_bytes() for name in (CA_FILE, CERTIFICATE_FILE, KEY_FILE)]

    server_context(tmp_path, ["api.openai.com", "127.0.0.1"], NOW)
    first = files()
    server_context(tmp_path, ["api.openai.com", "127.0.0.1"], NOW + datetime.timedelta(days=300))
    assert files() == first
    server_context(tmp_path, ["api.other.example"], NOW)
    second = files()
    assert second[0] != first[0]
    server_context(tmp_path, ["api.other.example"], NOW + datetime.timedelta(days=340))
    assert files() != second
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600
    assert not list(tmp_path.glob("*.new"))
    assert b"PRIVATE" not in (tmp_path / CA_FILE).read_bytes()


@pytest.mark.parametrize("text", ["", "short", "has a space in it", "x" * 300, "ü" * 20])
async def test_a_key_file_that_is_no_key_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_key(tmp_path / "key")
    assert caught.value.code == "devnet.model_key"
    assert not text or text not in str(caught.value.to_wire())


async def test_a_missing_key_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        read_key(tmp_path / "none")
