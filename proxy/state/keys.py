"""Every key name and every lifetime.

All keys of a lineage contain ``{<tag>}``, so on Redis Cluster they lie in one slot and one script can touch them
together. A tenant is never part of a lineage's keys: it stands in the records and is compared there.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

PLAIN, MARKED = 1, 2
"""Schemas. ``MARKED``: it has an owner, which an earlier statecar would not look at, or values are wrapped
(``state.envelope``); a model's name is JSON like all others.
"""

SCHEMA = MARKED
"""The newest schema read. Whatever is stored says the lowest by which all that it needs is read right."""

CONVERSATION_LOG = "c"
"""Name of a conversation's log; a response log is named by the turn that opened it."""

SECRET = "sc:secret"  # noqa: S105 (the key's name)
"""The secret of the tenant hash, 32 bytes."""

KEYS_USED = "sc:keys"
"""ZSET: names of the keys that content was encrypted with, by when the last of it is gone, in seconds; '+inf' while one
encrypts."""

PROBE = "sc:probe"
"""What a readiness check writes."""


RUNS = "sc:runs"
"""ZSET of all runs: member = the 22 bytes of tag and turn, then the tenant; score = when to look after it, in ms."""


STOPS = "sc:stops"
"""Stream: the newest runs that somebody wants to end; a hint only, which every process with runs listens to."""


def tenant_index(tenant: str) -> str:
    """ZSET of a tenant's responses: member = the 22 bytes of tag and turn, score = created at, in microseconds."""
    return f"sc:{{t:{tenant}}}:r"


def tenant_lineages(tenant: str) -> str:
    """ZSET of a tenant's lineages, so that all of it is found, whatever records are left: member = the 8 bytes of the
    tag, score = when it will be gone unless it is used, in seconds since the epoch.
    """
    return f"sc:{{t:{tenant}}}:l"


KEY_TTL = 86400
"""Seconds that a response stands for its idempotency key, and that its events are kept at least."""


def key_hold(tenant: str, key: str) -> str:
    """String: who is about to make the response for an idempotency key, given by its hash: body hash, then token."""
    return f"sc:{{t:{tenant}}}:h:{key}"


def key_name(tenant: str, key: str) -> str:
    """String: the response that stands for an idempotency key, given by its hash: body hash, then id."""
    return f"sc:{{t:{tenant}}}:y:{key}"


def lesson(upstream: str, model: str) -> str:
    """String: what the refusals of an upstream taught for a model. Hashed: the model's name is a caller's text."""
    named = f"{upstream}\0{model}".encode("utf-8", "surrogatepass")
    return f"sc:n:{hashlib.blake2b(named, digest_size=16).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Quota:
    """The keys of what a tenant uses of its limits; they share a slot."""

    tenant: str

    @property
    def usage(self) -> str:
        """Hash: ``r<second>`` requests let in, ``t<second>`` tokens taken, and what sums them up (``quota_admit``)."""
        return f"sc:{{t:{self.tenant}}}:u"

    @property
    def at_work(self) -> str:
        """ZSET: requests at work; member = token, score = end of its lease, in ms."""
        return f"sc:{{t:{self.tenant}}}:q"

    @property
    def bytes(self) -> str:
        """Hash: bytes stored by lineage tag, and ``*`` of all."""
        return f"sc:{{t:{self.tenant}}}:b"

    @property
    def ends(self) -> str:
        """ZSET: lineages by when their bytes count no more, in seconds; those kept for ever are not in it."""
        return f"sc:{{t:{self.tenant}}}:z"


@dataclass(frozen=True, slots=True)
class Lineage:
    """The keys of one lineage."""

    tag: str

    @property
    def logs(self) -> str:
        """What the names of logs are appended to."""
        return f"sc:{{{self.tag}}}:l:"

    def log(self, name: str) -> str:
        """List: one entry an item, its JSON bytes; '' where one was erased. Never shrinks."""
        return self.logs + name

    def record(self, turn: str) -> str:
        """Hash: a response without its items."""
        return f"sc:{{{self.tag}}}:r:{turn}"

    @property
    def probe(self) -> str:
        """String: this slot takes writes."""
        return f"sc:{{{self.tag}}}:o"

    def run(self, turn: str) -> str:
        """Hash: a response in the making, with all that it takes to make it."""
        return f"sc:{{{self.tag}}}:j:{turn}"

    def lease(self, turn: str) -> str:
        """String: the token of the process that makes the response."""
        return f"sc:{{{self.tag}}}:w:{turn}"

    def events(self, turn: str) -> str:
        """Stream: every event of a response by its sequence number, which the entry's id is one more than."""
        return f"sc:{{{self.tag}}}:e:{turn}"

    @property
    def meta(self) -> str:
        """Hash: ``p:<log>`` = ``parent|length|gone`` a log branched from, ``f:<log>`` = highest point of a branch."""
        return f"sc:{{{self.tag}}}:m"

    @property
    def texts(self) -> str:
        """Hash: long instructions, tools and formats by content hash."""
        return f"sc:{{{self.tag}}}:x"

    @property
    def conversation(self) -> str:
        """Hash: a conversation without its items."""
        return f"sc:{{{self.tag}}}:c"

    @property
    def index(self) -> str:
        """ZSET: the items still in the conversation; member = item id, score = position in the log."""
        return f"sc:{{{self.tag}}}:i"

    @property
    def lock(self) -> str:
        """String: the token of the turn that runs on the conversation."""
        return f"sc:{{{self.tag}}}:k"

    def receipt(self, turn: str) -> str:
        """String: a batch of items was added; tells a resent batch from a new one."""
        return f"sc:{{{self.tag}}}:b:{turn}"


_FOR_EVER = 1 << 53  # more seconds than any key has left


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """Seconds until things expire, 0 for ever: responses from creation or use, conversations from use."""

    response: int
    conversation: int

    @property
    def slack(self) -> int:
        """How far a lifetime may run down before use prolongs it: an hour, less where lifetimes are short."""
        return min(3600, self.response // 8)

    @property
    def log(self) -> int:
        """Logs, meta and texts outlive their records: the last touch may be one slack old when a turn begins and the
        turn may take another, and still no record may point at an expired log."""
        return self.response and self.response + 2 * self.slack

    @property
    def conversation_log(self) -> int:
        """A conversation's log serves the conversation and the responses made in it."""
        return self.conversation and self.log and max(self.conversation, self.log)

    def listed(self, of_conversation: bool) -> int:
        """Seconds for which a lineage stands in its tenant's list, from when it was last listed on. Twice what its log
        lives: a turn that never ended has prolonged a conversation, and what is left of a deleted one lives on.
        """
        return 2 * (self.conversation_log if of_conversation else self.log)

    @property
    def record_due(self) -> int:
        """A record with less than this left is touched when it is used."""
        return self.response - self.slack if self.response else _FOR_EVER

    @property
    def log_due(self) -> int:
        """The same for logs, meta and texts."""
        return self.log - self.slack if self.log else _FOR_EVER

    @property
    def conversation_due(self) -> int:
        """The same for conversations whose items are used from outside."""
        return self.conversation - min(3600, self.conversation // 8) if self.conversation else _FOR_EVER
