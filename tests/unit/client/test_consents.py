"""An operator's consent in a member's folder, and who of the members signs."""

from __future__ import annotations

import json
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web
from coincurve import PrivateKey

from cloister.client.committee import Sitting
from cloister.client.consents import consent, signed_by
from cloister.core.encoding.handover import MasterRotation, SeatRevocation
from cloister.core.encoding.signatures import address_of, sign_digest
from cloister.core.errors import CloisterError
from cloister.core.policy.committee_statements import Proposal
from cloister.wire.statements import CONSENTS_FILE, SignedProposal, consents_from_json, rows_to_json

NETWORK = b"\x0e" * 32
KEYS = [PrivateKey(bytes([i]) * 32) for i in range(1, 6)]
WANTED = MasterRotation(2, 1)


def read(folder: Path) -> object:
    return consents_from_json(json.loads((folder / CONSENTS_FILE).read_text()))


def test_consents_add_up_within_a_term_and_go_with_it(tmp_path: Path) -> None:
    other = SeatRevocation(2, b"\x05" * 20)
    assert consent(tmp_path, WANTED) == 1
    assert consent(tmp_path, WANTED) == 1
    assert consent(tmp_path, other) == 2
    assert read(tmp_path) == {WANTED, other}
    assert consent(tmp_path, MasterRotation(3, 1)) == 1
    assert read(tmp_path) == {MasterRotation(3, 1)}
    assert [one.name for one in tmp_path.iterdir()] == [CONSENTS_FILE], "nothing else is left in the folder"
    assert stat.S_IMODE((tmp_path / CONSENTS_FILE).stat().st_mode) == 0o600


def test_a_folder_that_is_none_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CloisterError) as caught:
        consent(tmp_path / "nowhere", WANTED)
    assert caught.value.code == "client.consent"


@pytest.mark.parametrize("text", ["", "{}", "no JSON", '[{"kind": "Lease"}]', "[" * 70_000])
def test_a_broken_file_is_not_written_over(tmp_path: Path, text: str) -> None:
    (tmp_path / CONSENTS_FILE).write_text(text)
    with pytest.raises(CloisterError) as caught:
        consent(tmp_path, WANTED)
    assert caught.value.code == "client.consent"
    assert (tmp_path / CONSENTS_FILE).read_text() == text


def row(seat: int, statement: MasterRotation = WANTED, *, network: bytes = NETWORK, lists: bool = False) -> object:
    proposal = Proposal(statement, (1,) if lists else ())
    return rows_to_json([SignedProposal(proposal, sign_digest(KEYS[seat], statement.digest(network)))])


ANSWERS = {
    "1": row(0),
    "2": row(0),  # another's signature
    "3": row(2, network=b"\x0f" * 32),
    "4": row(3, MasterRotation(2, 2)),
    "5": {"statements": 7},
    "6": row(4, lists=True),
}


@pytest_asyncio.fixture
async def url() -> AsyncIterator[str]:
    async def statements(request: web.Request) -> web.Response:
        return web.json_response(ANSWERS[request.match_info["seat"]])

    app = web.Application()
    app.router.add_get("/{seat}/v1/statements", statements)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_only_a_member_s_own_signature_under_the_same_statement_counts(url: str) -> None:
    sittings = [Sitting(i, address_of(KEYS[(i - 1) % 5]), "intel", f"{url}/{i}", False) for i in range(1, 7)]
    assert set(await signed_by(sittings, WANTED, NETWORK)) == {1}
    revoked = [Sitting(1, address_of(KEYS[0]), "intel", f"{url}/1", True), Sitting(2, b"\1" * 20, "amd", None, False)]
    assert await signed_by(revoked, WANTED, NETWORK) == {}
