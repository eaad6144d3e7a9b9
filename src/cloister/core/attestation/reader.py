"""A bounds-checked cursor over bytes from outside. Every read beyond the end is a refusal, and so is what is left."""

from __future__ import annotations

from cloister.core.attestation.refusals import MALFORMED


class Reader:
    """Reads forwards. ``name`` says in refusals what is being read; ``order`` is "big" or "little"."""

    def __init__(self, data: bytes, name: str, order: str = "big") -> None:
        self._data, self._name, self._at = data, name, 0
        self._little = order == "little"

    def take(self, size: int) -> bytes:
        """The next ``size`` bytes. Raises attestation.malformed if there are fewer."""
        if size > len(self._data) - self._at:
            left = len(self._data) - self._at
            raise MALFORMED(expected=f"{size} more bytes of {self._name}", found=f"{left}")
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, size: int) -> int:
        """An unsigned integer of ``size`` bytes."""
        return int.from_bytes(self.take(size), "little" if self._little else "big")

    def sized(self, limit: int) -> bytes:
        """A 2-byte length of at most ``limit``, then that many bytes (TPM2B in a TPM's order)."""
        size = self.number(2)
        if size > limit:
            raise MALFORMED(expected=f"a part of {self._name} of at most {limit} bytes", found=str(size))
        return self.take(size)

    def left(self) -> int:
        """How many bytes are left."""
        return len(self._data) - self._at

    def more(self) -> bool:
        """Whether bytes are left."""
        return self._at < len(self._data)

    def end(self) -> None:
        """Raises attestation.malformed if bytes are left."""
        if self.more():
            raise MALFORMED(expected=f"the end of {self._name}", found=f"{len(self._data) - self._at} more bytes")
