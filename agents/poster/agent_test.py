"""Run with: cloister agent test"""

from cloister_agent import Response

INSTANCE = "mastodon.example"
SECRETS = {"MASTODON_TOKEN": "token-1"}
posts: dict[str, str] = {}
broken = False


def instance(request):
    """A Mastodon instance: it knows its token, and makes one post per idempotency key."""
    if broken:
        return Response.json({"error": "over capacity"}, 503)
    if request.headers.get("authorization") != "Bearer token-1" or request.path != "/api/v1/statuses":
        return Response.json({"error": "no"}, 401)
    posts[request.headers["idempotency-key"]] = request.json()["status"]
    return {"url": f"https://{INSTANCE}/@me/{len(posts)}"}


HOSTS = {INSTANCE: instance}


async def test_what_is_due_is_posted_once(agent):
    posts.clear()
    draft = (await agent.command({"add": "hello"})).json()
    assert (await agent.scheduled("/publish")).json() == {"posted": 1}
    assert (await agent.scheduled("/publish")).json() == {"posted": 0}
    assert posts == {draft["id"]: "hello"}
    assert (await agent.fetch("/")).json() == [{"text": "hello", "url": f"https://{INSTANCE}/@me/1"}]


async def test_what_is_not_due_waits_and_can_be_removed(agent):
    posts.clear()
    draft = (await agent.command({"add": "later", "at": "2099-01-01T00:00:00+00:00"})).json()
    assert (await agent.scheduled("/publish")).json() == {"posted": 0}
    assert [one["text"] for one in (await agent.command({"list": True})).json()] == ["later"]
    assert (await agent.command({"remove": draft["id"]})).json() == []
    assert posts == {}


async def test_a_post_that_failed_stays_a_draft(agent):
    global broken
    await agent.command({"add": "again"})
    broken = True
    try:
        assert (await agent.scheduled("/publish")).status >= 500
    finally:
        broken = False
    assert (await agent.scheduled("/publish")).json() == {"posted": 1}


async def test_nobody_else_sees_drafts_or_posts(agent):
    await agent.command({"add": "secret", "at": "2099-01-01T00:00:00+00:00"})
    for caller in (None, "0x" + "a" * 40):
        assert (await agent.fetch("/publish", method="POST", caller=caller)).status == 404
        assert "secret" not in (await agent.fetch("/", caller=caller)).text()


async def test_what_is_no_draft_is_refused(agent):
    for asked in ({"add": ""}, {"add": "x" * 501}, {"add": 7}, {"add": "x", "at": "soon"}):
        assert (await agent.command(asked)).status == 400
