"""Requests that name another host than the page's own.

A page that listens on one machine alone can still be reached by a web site, which has its own name
resolve to that machine once it is open in a browser there. Such requests name the site as their
host.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection
from urllib.parse import urlsplit


class HostCheck:
    """Middleware (ASGI) that answers 421 to requests for another host.

    Args:
        app: what answers the others.
        host: the name or address that the page listens on.
        names: further names that it is known by.
    """

    def __init__(self, app, host: str, names: Collection[str] = ()):
        self._app = app
        self._open = not is_loopback(host)
        own = (host, "localhost")
        if self._open:
            own += (socket.gethostname(), socket.getfqdn())
        self._names = {_plain(name) for name in (*own, *names)}

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] not in ("http", "websocket") or self._is_own(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"content-type", b"text/plain")]
            await send({"type": "http.response.start", "status": 421, "headers": headers})
            body = b"This page has another name; --allow-host adds one.\n"
            await send({"type": "http.response.body", "body": body})

    def _is_own(self, scope) -> bool:
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        return len(hosts) == 1 and self.takes(hosts[0])

    def takes(self, host: str) -> bool:
        """Whether a ``Host`` header names this page."""
        try:
            name = _plain(urlsplit(f"//{host}").hostname or "")
        except ValueError:
            return False
        if name in self._names:
            return True
        # No site can have an address as its name. A page for this machine alone has only its own.
        return is_loopback(name) or (self._open and _is_address(name))


def is_loopback(name: str) -> bool:
    """Whether a name or address means this machine, and cannot be reached from another."""
    return name == "localhost" or (_is_address(name) and ipaddress.ip_address(name).is_loopback)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _plain(name: str) -> str:
    return name.lower().rstrip(".")
