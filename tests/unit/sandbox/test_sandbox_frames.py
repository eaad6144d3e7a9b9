"""Frames from a hostile peer: any cut reassembles, any cap holds, nothing else comes out."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.core.errors import SandboxError
from cloister.sandbox.frames import CAPS, HEADER, Decoder, Kind, dump, load_object, pack

FRAME = st.tuples(
    st.sampled_from([Kind.HEAD, Kind.CHUNK, Kind.LOG, Kind.HOST_CALL]),
    st.integers(0, 2**32 - 1),
    st.binary(max_size=200),
)


@given(st.lists(FRAME, max_size=8), st.integers(1, 64))
def test_frames_come_out_as_they_went_in_wherever_the_stream_is_cut(
    frames: list[tuple[Kind, int, bytes]], step: int
) -> None:
    stream = b"".join(pack(kind, number, payload) for kind, number, payload in frames)
    decoder = Decoder()
    out = [frame for at in range(0, len(stream), step) for frame in decoder.feed(stream[at : at + step])]
    assert out == [(int(kind), number, payload) for kind, number, payload in frames]


@pytest.mark.parametrize("kind", sorted(CAPS))
def test_a_frame_over_its_cap_is_refused_at_its_header(kind: int) -> None:
    decoder = Decoder()
    assert list(decoder.feed(HEADER.pack(CAPS[kind], 1, kind)[:8])) == []
    with pytest.raises(SandboxError) as caught:
        list(Decoder().feed(HEADER.pack(CAPS[kind] + 1, 1, kind)))
    assert caught.value.code == "sandbox.protocol"


@pytest.mark.parametrize("kind", [0, Kind.INIT, Kind.REQUEST, Kind.HOST_RESULT, Kind.CANCEL, Kind.CREDIT, 26, 99, 255])
def test_a_type_that_the_harness_does_not_have_is_refused(kind: int) -> None:
    with pytest.raises(SandboxError) as caught:
        list(Decoder().feed(HEADER.pack(0, 1, kind)))
    assert caught.value.code == "sandbox.protocol"


def test_frames_before_a_bad_one_are_delivered_first() -> None:
    stream = pack(Kind.END, 1) + HEADER.pack(0, 1, 99)
    seen = []
    with pytest.raises(SandboxError):
        for frame in Decoder().feed(stream):
            seen.append(frame)
    assert seen == [(int(Kind.END), 1, b"")]


@given(st.binary(max_size=400))
def test_garbage_gives_frames_within_their_caps_or_a_named_refusal(data: bytes) -> None:
    with contextlib.suppress(SandboxError):
        for kind, _, payload in Decoder().feed(data):
            assert len(payload) <= CAPS[kind]


@given(st.binary(max_size=60))
def test_payloads_are_json_objects_or_refused(data: bytes) -> None:
    with contextlib.suppress(SandboxError):
        assert isinstance(load_object(data), dict)


@pytest.mark.parametrize("data", [b"", b"[]", b"1", b'"x"', b"null", b"{", b"\xff{}", b"[" * 5000 + b"]" * 5000])
def test_other_json_is_refused(data: bytes) -> None:
    with pytest.raises(SandboxError):
        load_object(data)


def test_what_the_worker_sends_is_strict_json() -> None:
    assert load_object(dump({"a": [1, "ü"]})) == {"a": [1, "ü"]}
    with pytest.raises(ValueError):
        dump({"a": float("nan")})
