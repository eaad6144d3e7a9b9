"""Whatever is proposed, restarted and merged, in whatever order, with one member that lies or was rolled back: heads
that four members signed stay on one chain, and no loader accepts a store that leaves one out (spec/state.md 10).
"""

from __future__ import annotations

from hypothesis import settings

from support.heads_model import Committee

Committee.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestCommittee = Committee.TestCase
