"""What a Python agent imports: ``from cloister_agent import Request, Response`` (docs/use/agents.md).

It lives in the agent's process. It needs the standard library only, so a developer's tests may import it too.
"""

import json
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

__all__ = ["Headers", "HostError", "Request", "Response"]

Pairs = Iterable[tuple[str, str]]
Body = bytes | str | Iterable[bytes | str] | AsyncIterable[bytes | str] | None


class HostError(Exception):
    """The worker refused a call of ``ctx``: ``code``, ``check``, ``expected``, ``found``, ``remedy`` say why."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        self.code, self.check = fields["code"], fields["check"]
        self.expected, self.found, self.remedy = fields["expected"], fields["found"], fields["remedy"]
        super().__init__(f"{self.code}: {self.check}: expected {self.expected}, found {self.found}. {self.remedy}")


class Headers(Mapping[str, str]):
    """Headers by name, whatever its case; several of one name are joined by a comma. ``pairs`` keeps them apart."""

    def __init__(self, pairs: Mapping[str, str] | Pairs = ()) -> None:
        items = pairs.items() if isinstance(pairs, Mapping) else pairs
        self.pairs = [(str(name).lower(), str(value)) for name, value in items]

    def __getitem__(self, name: str) -> str:
        found = [value for key, value in self.pairs if key == name.lower()]
        if not found:
            raise KeyError(name)
        return ", ".join(found)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name for name, _ in self.pairs))

    def __len__(self) -> int:
        return len({name for name, _ in self.pairs})

    def add(self, name: str, value: str) -> None:
        """One more header, beside others of its name."""
        self.pairs.append((name.lower(), value))


class Request:
    """A request: ``method``, ``url``, ``path`` (without the query), ``query`` (name -> list), ``headers``, ``body``."""

    def __init__(self, method: str, target: str, headers: Pairs = (), body: bytes = b"") -> None:
        self.method, self.url, self.headers, self.body = method, "https://agent" + target, Headers(headers), body
        parts = urlsplit(self.url)
        self.path: str = parts.path
        self.query: dict[str, list[str]] = parse_qs(parts.query, keep_blank_values=True)

    def text(self) -> str:
        """The body as UTF-8 text."""
        return self.body.decode()

    def json(self) -> Any:
        """The body as JSON. Raises ValueError."""
        return json.loads(self.body)

    async def stream(self, size: int = 1 << 16) -> AsyncIterator[bytes]:
        """The body in pieces. It has arrived whole: at most ``request_bytes`` of the manifest."""
        for at in range(0, len(self.body), size):
            yield self.body[at : at + size]


class Response:
    """An answer. ``body``: bytes, text, or an iterable of either, asynchronous or not, which is streamed."""

    def __init__(self, body: Body = None, status: int = 200, headers: Mapping[str, str] | Pairs = ()) -> None:
        self.body, self.status, self.headers = body, status, Headers(headers)
        if isinstance(body, str) and "content-type" not in self.headers:
            self.headers.add("content-type", "text/plain;charset=UTF-8")

    @classmethod
    def json(cls, value: Any, status: int = 200, headers: Mapping[str, str] | Pairs = ()) -> "Response":
        """A JSON answer."""
        response = cls(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode(), status, headers)
        if "content-type" not in response.headers:
            response.headers.add("content-type", "application/json")
        return response

    @classmethod
    def events(cls, source: AsyncIterable[Any], headers: Mapping[str, str] | Pairs = ()) -> "Response":
        """Server-sent events: each item is a text, or an object with data (text or JSON-ready), event, id, retry."""

        async def written() -> AsyncIterator[bytes]:
            async for item in source:
                yield _event(item)

        response = cls(written(), 200, headers)
        for name, value in (("content-type", "text/event-stream"), ("cache-control", "no-store")):
            if name not in response.headers:
                response.headers.add(name, value)
        return response


def _event(item: Any) -> bytes:
    fields = item if isinstance(item, Mapping) else {"data": item}
    lines = [f"{name}: {_one_line(fields[name])}" for name in ("event", "id", "retry") if name in fields]
    data = fields.get("data", "")
    text = data if isinstance(data, str) else json.dumps(data, separators=(",", ":"), ensure_ascii=False)
    return "\n".join([*lines, *(f"data: {line}" for line in text.splitlines() or [""]), "", ""]).encode()


def _one_line(value: Any) -> str:
    return str(value).replace("\r", " ").replace("\n", " ")
