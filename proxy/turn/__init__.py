"""One turn: history, chat body, upstream round, events, saved. And what is asked of a context without a turn."""

from proxy.turn.compacting import compact
from proxy.turn.counting import input_tokens
from proxy.turn.manners import Manners
from proxy.turn.services import Caller, Services, ShuttingDown
from proxy.turn.turn import Turn

__all__ = ["Caller", "Manners", "Services", "ShuttingDown", "Turn", "compact", "input_tokens"]
