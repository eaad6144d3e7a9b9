"""Every refusal of :mod:`checkpoints`, apart from the rules: who is refused (worker) needs the words alone."""

from __future__ import annotations

from cloister.core.errors import ChainViewError, define

NOT_A_CHECKPOINT = define(
    "chainview.not_a_checkpoint",
    ChainViewError,
    check="the signed statement is a checkpoint of this chain",
    remedy="ask the committee for a checkpoint of the chain in network.json",
)
STALE = define(
    "chainview.stale",
    ChainViewError,
    check="the checkpoint is fresh by the reader's own clock",
    remedy="somebody holds back newer checkpoints, the committee has stopped, or your clock is wrong",
    status=503,
)
SECOND_AT_HEIGHT = define(
    "chainview.second_at_height",
    ChainViewError,
    check="a member signs one block per height",
    remedy="the chain reorganised below finality or an endpoint lies: stop and find out which",
    status=409,
)
NOT_DESCENDANT = define(
    "chainview.not_descendant",
    ChainViewError,
    check="a member signs only descendants of the block it signed last",
    remedy="the chain reorganised below finality or an endpoint lies: stop and find out which",
    status=409,
)
