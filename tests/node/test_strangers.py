"""Wrong tokens are answered ever more slowly, and right ones at once, in bounded memory."""

import asyncio

import pytest
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from node.dicomweb import strangers
from node.dicomweb.application import create_app
from node.dicomweb.settings import DicomwebClient, DicomwebSettings
from node.dicomweb.strangers import FREE, LONGEST, MOST_REMEMBERED, MOST_WAITING, Strangers
from node.dicomweb.tokens import digest_of


@pytest.fixture
def waits(monkeypatch):
    """How long each was kept waiting, without the waiting."""
    found = []

    async def sleep(seconds):
        found.append(seconds)

    monkeypatch.setattr(strangers, "sleep", sleep)
    return found


@pytest.fixture
def client():
    settings = DicomwebSettings(
        clients=[DicomwebClient(name="viewer", token_sha256=digest_of("right"), may=("read",))]
    )
    routes = [Route("/studies", lambda _request: PlainTextResponse("served"))]
    return TestClient(create_app(settings, routes), base_url="http://127.0.0.1/dicom-web")


def get(client, token):
    return client.get("/studies", headers={"Authorization": f"Bearer {token}"} if token else {})


def test_wrong_tokens_wait_ever_longer_and_the_right_one_never(client, waits):
    for number in range(FREE + 30):
        assert get(client, f"wrong {number}").status_code == 401
        so_far = len(waits)
        assert get(client, "right").text == "served"
        assert len(waits) == so_far
    assert len(waits) >= 29
    assert waits[:10] == sorted(waits[:10])
    assert waits[0] < 0.5
    assert waits[-1] == LONGEST


def test_who_shows_no_token_is_told_so_at_once(client, waits):
    for _ in range(3 * FREE):
        assert get(client, "").status_code == 401
    assert not waits


def test_what_is_long_ago_is_forgotten(client, waits, monkeypatch):
    for _ in range(FREE + 5):
        get(client, "wrong")
    now = strangers.monotonic()
    monkeypatch.setattr(strangers, "monotonic", lambda: now + 1000)
    waits.clear()
    get(client, "wrong")
    assert not waits


def test_the_log_hears_of_it_once_in_a_while(client, waits, monkeypatch):
    with capture_logs() as logs:
        for _ in range(40):
            get(client, "wrong")
    (one,) = logs
    assert (one["event"], one["times"]) == ("dicomweb.refused", 1)
    now = strangers.monotonic()
    monkeypatch.setattr(strangers, "monotonic", lambda: now + 61)
    with capture_logs() as logs:
        get(client, "wrong")
        client.post("/studies", headers={"Authorization": "Bearer right"})
    assert [(one["times"], "may not store" in one["reason"]) for one in logs] == [
        (40, False),
        (1, True),
    ]


def test_so_many_wait_at_once_and_the_others_have_to_come_anew(monkeypatch):
    monkeypatch.setattr(strangers, "LONGEST", 0.05)
    monkeypatch.setattr(strangers, "FREE", 0)

    async def all_at_once(known):
        return await asyncio.gather(*(known.wait("10.0.0.1", "") for _ in range(50)))

    known = Strangers()
    for _ in range(2):  # those who have waited make room
        assert sum(asyncio.run(all_at_once(known))) == MOST_WAITING


def test_addresses_beyond_counting_take_no_memory():
    known = Strangers()

    async def meet_all():
        for number in range(3 * MOST_REMEMBERED):
            known.to_log(f"2001:db8::{number:x}", "")
            await known.wait(f"2001:db8::{number:x}", "")

    asyncio.run(meet_all())
    assert len(known._met) == MOST_REMEMBERED
