"""Settings: strict, named refusals, one hash."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.errors import CloisterError, ConfigError, EncodingError
from cloister.node.config import MAX_CONFIG, config_hash, load_config, parse_config


@dataclass(frozen=True)
class Peer:
    """A nested setting."""

    host: str
    port: int = 443


@dataclass(frozen=True)
class Settings:
    """Like a service's settings."""

    folder: Path
    peers: list[Peer] = field(default_factory=list)
    limits: dict[str, int] = field(default_factory=dict)
    name: str | None = None


@dataclass(frozen=True)
class Fraction:
    """A setting that cannot be hashed."""

    share: float = 0.5


class Nested(msgspec.Struct, frozen=True):
    """A msgspec struct works too."""

    peer: Peer
    number: int = 7


GOOD = b'{"folder": "/var/x", "peers": [{"host": "a"}], "limits": {"m": 1}}'


def test_a_configuration_is_read_with_its_defaults() -> None:
    config = parse_config(GOOD, Settings)
    assert config == Settings(Path("/var/x"), [Peer("a", 443)], {"m": 1}, None)


REFUSED: dict[str, tuple[bytes, str]] = {
    "an unknown field": (b'{"folder": "x", "foldr": "y"}', "$.foldr"),
    "an unknown field inside": (
        b'{"folder": "x", "peers": [{"host": "a"}, {"host": "b", "prt": 1}]}',
        "$.peers[1].prt",
    ),
    "a field twice": (b'{"folder": "x", "folder": "y"}', "repeated"),
    "a field twice inside": (b'{"folder": "x", "peers": [{"host": "a", "host": "b"}]}', "repeated"),
    "a missing field": (b"{}", "folder"),
    "a number as text": (b'{"folder": "x", "peers": [{"host": "a", "port": "443"}]}', "port"),
    "a list in place of an object": (b"[]", "object"),
    "no JSON": (b"folder = x", "JSONDecodeError"),
    "no UTF-8": (b'{"folder": "\xff"}', "UnicodeDecodeError"),
    "not a number": (b'{"folder": "x", "limits": {"m": NaN}}', "NaN"),
    "depth without end": (b"[" * 100_000, "RecursionError"),
    "more than a mebibyte": (b" " * (MAX_CONFIG + 1), "bytes"),
    "a path that is a number": (b'{"folder": 7}', "folder"),
    "an empty path": (b'{"folder": ""}', "folder"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_configuration_is_refused_with(case: str) -> None:
    data, named = REFUSED[case]
    with pytest.raises(ConfigError) as caught:
        parse_config(data, Settings)
    assert caught.value.code == "config.bad"
    assert named in caught.value.found


@given(st.binary(max_size=200))
@settings(max_examples=60)
def test_garbage_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(CloisterError):
        parse_config(data, Settings)


def test_a_refusal_does_not_quote_values() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(b'{"folder": "x", "peers": [{"host": "hunter2", "port": "hunter2"}]}', Settings)
    assert "hunter2" not in str(caught.value)


def test_the_hash_covers_every_field_and_default() -> None:
    config = parse_config(GOOD, Settings)
    hashes = {
        config_hash(c)
        for c in (
            config,
            replace(config, folder=Path("/var/y")),
            replace(config, peers=[Peer("a", 444)]),
            replace(config, limits={"m": 2}),
            replace(config, name=""),
        )
    }
    assert len(hashes) == 5
    assert all(len(h) == 32 for h in hashes)


def test_the_hash_does_not_depend_on_how_the_file_is_written() -> None:
    other = b'{ "limits": {"m": 1}, "peers": [{"port": 443, "host": "a"}], "name": null, "folder": "/var/x" }'
    assert config_hash(parse_config(GOOD, Settings)) == config_hash(parse_config(other, Settings))


def test_a_struct_is_read_like_a_dataclass() -> None:
    config = parse_config(b'{"peer": {"host": "a"}}', Nested)
    assert config == Nested(Peer("a"), 7)
    assert config_hash(config) == config_hash(
        parse_config(b'{"number": 7, "peer": {"host": "a", "port": 443}}', Nested)
    )
    for data in (b'{"peer": {"host": "a"}, "x": 1}', b'{"peer": {"host": "a", "x": 1}}'):
        with pytest.raises(ConfigError):
            parse_config(data, Nested)


def test_a_type_that_settings_lack_is_our_mistake() -> None:
    with pytest.raises(TypeError):
        config_hash({"x": object()})


def test_a_fraction_cannot_be_hashed() -> None:
    with pytest.raises(EncodingError):
        config_hash(Fraction())


def test_a_file_with_secrets_must_be_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(GOOD)
    path.chmod(0o640)
    assert load_config(path, Settings).limits == {"m": 1}
    with pytest.raises(ConfigError) as caught:
        load_config(path, Settings, private=True)
    assert caught.value.code == "config.open_file"
    path.chmod(0o600)
    assert load_config(path, Settings, private=True).limits == {"m": 1}


def test_what_is_no_readable_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b" " * (MAX_CONFIG + 1))
    for path in (tmp_path / "none", tmp_path, tmp_path / "big"):
        with pytest.raises(ConfigError) as caught:
            load_config(path, Settings)
        assert caught.value.code == "config.unreadable"
