"""What clients carry for us, sealed for one caller: thoughts and summaries (wire §7.6, §10.8, §10.9)."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.seal import COMPACTION, REASONING, Sealer, packed, unpacked


@dataclass(frozen=True)
class Seals:
    """One tenant's seals. ``sealer``: None where the server has no key; summaries are then only packed."""

    sealer: Sealer | None
    tenant: str

    def thought(self, text: str) -> str:
        """A thought, sealed. There must be a sealer."""
        assert self.sealer is not None
        return self.sealer.seal(text, REASONING, self.tenant)

    def open_thought(self, given: str) -> str | None:
        """A thought sealed here for this tenant, else None."""
        return self.sealer.open(given, REASONING, self.tenant) if self.sealer else None

    def summary(self, text: str) -> str:
        """What a compaction item carries, sealed or packed."""
        return self.sealer.seal(text, COMPACTION, self.tenant) if self.sealer else packed(text)

    def open_summary(self, given: str) -> str | None:
        """What a compaction item of this tenant carries, else None. Packed ones of a time without a key count."""
        opened = self.sealer.open(given, COMPACTION, self.tenant) if self.sealer else None
        return opened or unpacked(given)
