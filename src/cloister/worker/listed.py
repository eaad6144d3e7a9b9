"""Obeying the owner's lists of tools and models, at every start, request and call of another agent.

What an agent's code says inside TLS no worker sees. So the lists bind what it does see (spec/chainview.md 27-29): what
the manifest says that the code uses, and what calls of other agents declare. While a list leaves out what the manifest
names, the agent gets no request and reaches no host.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from cloister.core.errors import PolicyError
from cloister.core.policy.access import Narrowing, Uses
from cloister.core.policy.manifest import Manifest
from cloister.worker.access import Access

# Agent id and manifest hash.
Version = tuple[bytes, bytes]


class Listed:
    """What lists leave of each agent's manifest now. ``bind`` at each start; ``require`` before each request.

    ``version``: the manifest's hash. An agent and its canary are bound each by its own."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._uses: dict[Version, Uses] = {}

    async def load(self, agent: bytes) -> Narrowing:
        """``Access.load``."""
        return await self._access.load(agent)

    def allows(self, agent: bytes, version: bytes) -> Callable[[str, int], bool]:
        """For the egress proxy of one agent: whether a host and port may be reached now."""
        reaches = self._access.allows(agent)
        return lambda host, port: reaches(host, port) and self._fits(agent, version)

    def bind(self, agent: bytes, version: bytes, manifest: Manifest) -> None:
        """Remember what the code says that it uses. Raises policy.not_listed where a list leaves it out."""
        self._uses[agent, version] = uses_of(manifest)
        self._access.narrowing(agent).require_uses(self._uses[agent, version])

    def keep(self, versions: Collection[Version]) -> None:
        """Forget what others use."""
        for version in set(self._uses) - set(versions):
            del self._uses[version]

    async def require(self, agent: bytes, version: bytes) -> None:
        """Raise policy.not_listed while a list in force leaves out what the manifest names.

        A list that was just named is read first. An agent that was never started is bound when it is."""
        if not self._fits(agent, version):
            (await self._access.load(agent)).require_uses(self._uses.get((agent, version), Uses()))

    def fits(self, agent: bytes, version: bytes) -> bool:
        """Whether ``require`` says yes at once."""
        return self._fits(agent, version)

    def left(self, agent: bytes, manifest: Manifest) -> Uses:
        """Tools and models that manifest and lists leave now; None: nothing binds."""
        return self._access.narrowing(agent).left(uses_of(manifest))

    def _fits(self, agent: bytes, version: bytes) -> bool:
        uses = self._uses.get((agent, version))
        if uses is None or not (uses.tools or uses.models):
            return True  # most manifests name nothing that a list could leave out
        try:
            self._access.narrowing(agent).require_uses(uses)
        except PolicyError:
            return False
        return True


def uses_of(manifest: Manifest) -> Uses:
    """What a manifest says. One that names no models says nothing of them."""
    tools = None if manifest.tools is None else frozenset(manifest.tools)
    return Uses(tools, frozenset(manifest.models) or None)
