"""What connections remember: the newest response of each that is stored nowhere (wire §13.6)."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from proxy import codec
from proxy.state import Past


@dataclass(frozen=True)
class _Kept:
    id: str
    past: Past
    items: bytes


class Recent:
    """Past turns by their connections, as JSON. ``limit``: bytes of all of them; the one used least goes first."""

    def __init__(self, limit: int) -> None:
        self._limit, self._size = limit, 0
        self._kept: OrderedDict[object, _Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, connection: object, id_: str, past: Past) -> None:
        """Remembers the response in the place of the one before; nothing where it is larger than all may be."""
        self.forget(connection)
        items = codec.fitted(codec.dumps(past.items))
        if len(items) > self._limit:
            return
        self._kept[connection] = _Kept(id_, Past(past.tag, [], status=past.status), items)
        self._size += len(items)
        while self._size > self._limit:
            self.forget(next(iter(self._kept)))

    def find(self, connection: object, id_: object) -> dict[str, Past]:
        """What the connection knows under this id, by the id; nothing for another one's."""
        kept = self._kept.get(connection)
        if kept is None or kept.id != id_:
            return {}
        self._kept.move_to_end(connection)
        return {kept.id: Past(kept.past.tag, codec.loads(kept.items), status=kept.past.status)}

    def forget(self, connection: object, id_: object = None) -> None:
        """Forgets what the connection knows; with an id, only if it is that."""
        kept = self._kept.get(connection)
        if kept and id_ in (None, kept.id):
            del self._kept[connection]
            self._size -= len(kept.items)
