"""Who calls: by keys, and by headers that a gateway sets."""

from proxy.access.authenticator import Authenticator
from proxy.access.identity import Identity
from proxy.access.presented import Headers, key_of

__all__ = ["Authenticator", "Headers", "Identity", "key_of"]
