"""One turn: history, chat body, upstream round, events, saved. And what is asked of a context without a turn."""

from proxy.turn.admission import admit, counted, legible
from proxy.turn.compacting import compact
from proxy.turn.context import past_of
from proxy.turn.counting import input_tokens
from proxy.turn.credentials import with_credentials
from proxy.turn.guard import Guard
from proxy.turn.manners import Manners
from proxy.turn.rest import RESTARTED
from proxy.turn.resumed import Resumed, caller_of, kept_of, patiently
from proxy.turn.services import Caller, Services, ShuttingDown, TurnTraced
from proxy.turn.sessions import Sessions
from proxy.turn.stateless import stateless
from proxy.turn.turn import Turn

__all__ = [
    "RESTARTED",
    "Caller",
    "Guard",
    "Manners",
    "Resumed",
    "Services",
    "Sessions",
    "ShuttingDown",
    "Turn",
    "TurnTraced",
    "admit",
    "caller_of",
    "compact",
    "counted",
    "input_tokens",
    "kept_of",
    "legible",
    "past_of",
    "patiently",
    "stateless",
    "with_credentials",
]
