"""One turn: history, chat body, upstream round, events, saved."""

from proxy.turn.manners import Manners
from proxy.turn.services import Caller, Services, ShuttingDown
from proxy.turn.turn import Turn

__all__ = ["Caller", "Manners", "Services", "ShuttingDown", "Turn"]
