"""An Azure VM for producers: tpm2-tools by their arguments over a canned or living vTPM, and IMDS on loopback.

What is not Azure's own is kept: programs get the arguments that the real ones take, and IMDS speaks HTTP.
"""

from __future__ import annotations

import base64
import json
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning

from cloister.core.attestation.model import Evidence
from cloister.evidence.azure import CERTIFICATES, TD_QUOTE, Metadata, Vtpm
from cloister.evidence.tee import BAD_QUOTE
from cloister.evidence.tpm_bench import TpmBenches
from support.azure_kit import rsa_machine

Answer = tuple[int, bytes]
Quoter = Callable[[bytes, tuple[int, ...]], tuple[bytes, bytes, bytes]]


class FakeTools(TpmBenches):
    """tpm2_nvread and tpm2_quote as ``azure.Vtpm`` calls them; anything else fails as the real ones do."""

    def __init__(self, report: bytes, quoter: Quoter) -> None:
        super().__init__("fake")
        self.report, self.quoter = report, quoter
        self.calls: list[tuple[str, ...]] = []
        self._files: dict[str, bytes] = {}

    @contextmanager
    def bench(self) -> Iterator[Any]:
        """This object plays the folder too."""
        self._files = {}
        yield self

    def run(self, name: str, *arguments: str) -> bytes:
        """One program."""
        self.calls.append((name, *arguments))
        if name == "tpm2_nvread" and arguments == ("-C", "o", "0x01400001", "-o", "report"):
            self._files["report"] = self.report
        elif name == "tpm2_quote":
            given = dict(zip(arguments[::2], arguments[1::2], strict=True))
            assert (given["-c"], given["-g"], given["-f"], given["-F"]) == ("0x81000003", "sha256", "plain", "values")
            bank, _, numbers = given["-l"].partition(":")
            assert bank == "sha256"
            made = self.quoter(bytes.fromhex(given["-q"]), tuple(map(int, numbers.split(","))))
            self._files |= dict(zip((given["-m"], given["-s"], given["-o"]), made, strict=True))
        else:
            raise BAD_QUOTE(expected=f"{name} to work", found="no such index")
        return b""

    def read(self, name: str) -> bytes:
        """A file that a program wrote."""
        return self._files[name]


def living(qualifying: bytes, pcrs: tuple[int, ...]) -> tuple[bytes, bytes, bytes]:
    """A quote of the pretend vTPM."""
    tpm = rsa_machine()
    message = tpm.message(qualifying, pcrs)
    return message, tpm.sign(message), tpm.values(pcrs)


def canned(evidence: Evidence) -> Quoter:
    """The quote of recorded evidence, whatever is asked."""
    return lambda *_: (evidence.aux["quote"], evidence.aux["signature"], evidence.aux["pcrs"])


def vtpm_of(evidence: Evidence, quoter: Quoter = living) -> Vtpm:
    """A vTPM that holds the HCL report of some evidence."""
    return Vtpm(FakeTools(evidence.blob, quoter))


def thim(evidence: Evidence) -> bytes:
    """What IMDS says about the chip."""
    pem = {n: _pem(evidence.aux[n]) for n in ("vek", "intermediate", "ark")}
    said = {"vcekCert": pem["vek"], "tcbm": "DB18000000000004", "cacheControl": "86400"}
    return json.dumps({**said, "certificateChain": pem["intermediate"] + pem["ark"]}).encode()


def td_answer(evidence: Evidence) -> bytes:
    """What IMDS answers to a TD report."""
    text = base64.urlsafe_b64encode(evidence.aux["td_quote"]).rstrip(b"=").decode()
    return json.dumps({"quote": text}).encode()


def _pem(der: bytes) -> str:
    with warnings.catch_warnings():  # AMD numbers every VCEK 0
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode()


@dataclass
class Imds:
    """The metadata service. ``answers``: path -> status and body, or a list of them to be said in turn."""

    answers: dict[str, Answer | list[Answer]] = field(default_factory=dict)
    asked: list[tuple[str, str, bytes, str]] = field(default_factory=list)
    url: str = ""

    @classmethod
    def of(cls, evidence: Evidence) -> Imds:
        """The service of the machine that this evidence is of."""
        if evidence.kind == "azure-snp":
            return cls({CERTIFICATES: (200, thim(evidence))})
        return cls({TD_QUOTE: (200, td_answer(evidence))})

    def metadata(self) -> Metadata:
        """A client of it that does not wait between tries."""
        return Metadata(self.url, sleep=lambda _: None)

    @contextmanager
    def serving(self) -> Iterator[Imds]:
        """On a port of loopback."""
        imds = self

        class Handler(BaseHTTPRequestHandler):
            def _say(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                imds.asked.append((self.command, self.path, body, self.headers.get("Metadata", "")))
                known = imds.answers.get(self.path, (404, b"{}"))
                status, data = (known.pop(0) if len(known) > 1 else known[0]) if isinstance(known, list) else known
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = _say  # noqa: N815 - the base class's names

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=lambda: server.serve_forever(0.02), daemon=True).start()
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
