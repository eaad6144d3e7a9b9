"""Every refusal of :mod:`release`, apart from the decision: who is refused (worker, client) needs the words alone."""

from __future__ import annotations

from cloister.core.errors import PolicyError, define

WORKER_UNKNOWN = define(
    "policy.worker_unknown",
    PolicyError,
    check="the worker is registered at the checkpoint",
    remedy="register the worker with the committee's admission, then wait for finality",
    status=403,
)
WORKER_REMOVED = define(
    "policy.worker_removed",
    PolicyError,
    check="the worker is neither removed nor gone, at the checkpoint or at any newer block seen",
    remedy="a removed worker gets no keys; start it with a new identity and a new admission",
    status=403,
)
BOOT_MISMATCH = define(
    "policy.boot_mismatch",
    PolicyError,
    check="the attested boot is the one that the worker registered",
    remedy="a restarted worker registers its new boot before it asks for keys",
    status=403,
)
WORKER_EXPIRED = define(
    "policy.worker_expired",
    PolicyError,
    check="the worker's registration covers the checkpoint's height",
    remedy="renew the registration with fresh evidence",
    status=403,
)
MEASUREMENT_MISMATCH = define(
    "policy.measurement_mismatch",
    PolicyError,
    check="the attested measurement and vendor are the ones that the worker registered",
    remedy="register again from the image that runs now",
    status=403,
)
AGENT_UNKNOWN = define(
    "policy.agent_unknown",
    PolicyError,
    check="the agent exists at the checkpoint",
    remedy="check the agent id and the network; a new agent appears when its block is final",
    status=404,
)
PAUSED = define(
    "policy.paused",
    PolicyError,
    check="the agent is not paused, at the checkpoint or at any newer block seen",
    remedy="its owner resumes it with `cloister agent resume`",
    status=403,
)
EPOCH_CLOSED = define(
    "policy.epoch_closed",
    PolicyError,
    check="no newer epoch of the agent, its cluster or the master key was seen",
    remedy="ask again with a newer checkpoint: keys of closed epochs are not released",
    status=409,
)
NO_VERSION = define(
    "policy.no_such_version",
    PolicyError,
    check="keys are asked for the agent's code in force, or for a canary whose time has come",
    remedy="ask again with a newer checkpoint: the owner changed or dropped the version",
    status=409,
)
ROTATING = define(
    "policy.rotating",
    PolicyError,
    check="no rotation of the master key holds key release",
    remedy="wait: release resumes once the new master key is confirmed twice on chain; nothing is lost meanwhile",
    status=503,
)
CAP = define(
    "policy.cap",
    PolicyError,
    check="a worker holds at most max_agents_per_worker distinct agents per term; fewer by stake or operator",
    remedy="add workers, or stake behind this one; the cap returns with the next term",
    status=403,
)
WRONG_TERM = define(
    "policy.wrong_term",
    PolicyError,
    check="the checkpoint was signed in the term of the committee in office",
    remedy="fetch a checkpoint of the present committee",
    status=409,
)
