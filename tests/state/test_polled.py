"""What was told of runs that are asked for again and again: read from logs, each event once."""

import asyncio

from proxy import sse
from proxy.runs.polled import Polled
from proxy.state import Lease, Run
from proxy.translate.told import Telling
from tests.translate.replies import texts
from tests.translate.test_told import begun


async def kept(talk):
    """(a run's lease, the frames of its events, none of them in its log yet)."""
    draft = talk.draft()
    lease = Lease(draft.id)
    await talk.state.runs.create(Run(draft.id, talk.tenant, draft.created_at, {}, draft.input), lease)
    return lease, list(map(sse.encode, begun(texts(*"One two three"))))


def text(telling):
    return "".join(part["text"] for item in telling.items for part in item.item["content"])


async def test_only_what_is_new_is_read_by_however_many_at_a_time(talk, monkeypatch):
    lease, frames = await kept(talk)
    runs, polled, read = talk.state.runs, Polled(talk.state.runs), []
    events = runs.events

    async def counted(*args, **rest):
        read.extend(found := await events(*args, **rest))
        return found

    monkeypatch.setattr(runs, "events", counted)
    assert (await polled.telling(lease.run)).items == []
    for at, frame in enumerate(frames):
        await runs.append(lease, at, [frame])
        first, second = await asyncio.gather(*(polled.telling(lease.run) for _ in range(2)))
        assert text(first) == text(second) == text(Telling(map(sse.decode, frames[: at + 1])))
        assert first.sequence == at + 1
    assert len(read) <= 2 * len(frames)


async def test_what_was_asked_for_longest_ago_is_forgotten_first(talk):
    made = [await kept(talk) for _ in range(3)]
    for lease, frames in made:
        await talk.state.runs.append(lease, 0, frames[:5])
    most = 2 * sum(map(len, made[0][1][:5])) + 2500  # for two of them
    polled = Polled(talk.state.runs, most=most)
    for lease, _ in (made[0], made[1], made[0], made[2], made[0]):
        assert text(await polled.telling(lease.run)) == "O"
    assert set(polled._known) == {made[0][0].run, made[2][0].run}
    assert polled._held == sum(seen.size for seen in polled._known.values()) <= most
