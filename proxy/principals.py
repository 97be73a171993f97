"""Who asks within a tenant, and who owns what was made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from proxy import codec


@dataclass(frozen=True, slots=True)
class Principal:
    """A user within a tenant: a name, and attributes as ``{"teams": ("a", "b")}``. Stored, it is an owner."""

    name: str
    attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def encoded(self) -> bytes:
        """As JSON: ``[name, {attribute: [value, ...]}]``."""
        return codec.dumps([self.name, {name: list(values) for name, values in self.attributes.items()}])

    @classmethod
    def decoded(cls, text: bytes) -> Principal:
        """The principal that ``encoded`` gave this text."""
        name, attributes = codec.loads(text)
        return cls(name, {key: tuple(values) for key, values in attributes.items()})
