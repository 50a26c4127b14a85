"""Which web pages may reach the server through a visitor's browser. Imports no TensorFlow.

A page of any site can make a browser send requests to a server on the visitor's own machine. Two headers tell: `Host`
is the name that the page used (a rebinding attack uses its own, pointed at this machine), `Origin` the page's site.
"""

import ipaddress
import urllib.parse
from collections.abc import Mapping, Sequence

from longretriever_tf.serving.server.status import ServingError

_LOCAL_NAMES = ("localhost", "ip6-localhost")
_EXPLORER = "/explorer"
_DATA = ("/explorer/models/", "/explorer/settings.json")
"""Whose histories and which models: what other pages must not read."""

_HARMLESS = ("GET", "HEAD", "OPTIONS")
_WITHIN = ("same-origin", "none")


class OriginRules:
    """What to refuse.

    Args:
      host: the interface that the server listens on.
      allowed_hosts: further names that the server is reached by; "*": any.
      cors: pages of other origins may call the API.
    """

    def __init__(self, host: str, allowed_hosts: Sequence[str] = (), cors: bool = False) -> None:
        bound = _address(host)
        self._any = "*" in allowed_hosts
        self._names = {host.lower(), *_LOCAL_NAMES, *(name.lower().rstrip(".") for name in allowed_hosts)}
        # A rebinding attack needs a name: on all interfaces, the machine's own addresses are not known, but harmless.
        self._any_address = bound is not None and bound.is_unspecified
        self._is_local = host.lower() in _LOCAL_NAMES or (bound is not None and bound.is_loopback)
        self.cors = cors

    def check(self, method: str, path: str, headers: Mapping[str, str]) -> None:
        """Refuses a request that a foreign page made.

        The API of a server that is open to the network takes any Host: its callers use names that it cannot know.

        Args:
          method: in capitals.
          path: as sent, without the query.
          headers: by name, whatever case.

        Raises:
          ServingError: PERMISSION_DENIED, naming the header and the flag.
        """
        host = headers.get("Host", "")
        if (path.startswith(_EXPLORER) or self._is_local) and not self._knows(host):
            raise _denied(
                f"Host {host!r} is none of this server's names; use the address that it listens on, or start it with "
                f"--allowed_hosts={_name(host) or 'NAME'}"
            )
        origin, site = headers.get("Origin"), headers.get("Sec-Fetch-Site", "none")
        if (origin is None or _is_own(origin, host)) and site in _WITHIN:
            return
        if path.startswith(_DATA):
            raise _denied("the explorer's data is for its own page alone, not for pages of other origins")
        if method not in _HARMLESS and not self.cors:
            raise _denied(
                f"Origin {origin!r} is not this server's; pages of other origins may call it where it was started with "
                "--rest_api_enable_cors_support"
            )

    def _knows(self, host: str) -> bool:
        name = _name(host)
        address = _address(name)
        if address is not None and (address.is_loopback or self._any_address):
            return True
        return self._any or name in self._names


def _is_own(origin: str, host: str) -> bool:
    """Whether a page's origin is what it asked: scheme aside, which a proxy may change."""
    return bool(host) and origin.partition("://")[2].lower() == host.lower()


def _name(host: str) -> str:
    """Host without port, lower case, without brackets; "" where it is none."""
    try:
        return (urllib.parse.urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _denied(message: str) -> ServingError:
    return ServingError("PERMISSION_DENIED", message)
