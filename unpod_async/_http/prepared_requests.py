"""GETs that aiohttp puts together once."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any, Final

import aiohttp
from yarl import URL

__all__ = ["Prepared", "prepare"]

_AUTHORIZATION: Final = "Authorization"


class _Kept(Exception):
    """The request was kept, and not sent."""


async def prepare(session: aiohttp.ClientSession, root: URL, **how: Any) -> Prepared:
    """GETs to the origin of `root`. Nothing is sent yet, and nothing waited for.

    Args:
        session: without cookies; its trace configs and middlewares hear of nothing.
        how: further arguments of `ClientSession.get`.
    """
    kept: list[Prepared] = []

    async def keep(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        kept.append(Prepared(request, send))
        raise _Kept

    with contextlib.suppress(_Kept):
        await session.get(root, middlewares=(keep,), **how)
    return kept[0]


class Prepared:
    """GETs of one session to one origin, each sent once and not redirected.

    `ClientSession.get` puts together what is the same for all of them, headers, cookies, proxy and TLS, and
    prepares for redirects and repeats: 60 of the 290 us of a small answer. A middleware is handed what was
    put together and what sends it, which it may call as often as it likes; so here that is done once.
    """

    def __init__(self, model: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> None:
        self.session: Final = model.session
        self._model = model
        self._send = send
        self._idle: list[aiohttp.ClientRequest] = []

    async def get(self, url: URL, authorization: Callable[[URL], str]) -> aiohttp.ClientResponse:
        """The answer as soon as its head is there; to be read and closed by the caller.

        Args:
            authorization: gives the header's value, which is kept in no name.

        Raises:
            aiohttp.ClientError, OSError: as they come from the connection; nothing is sent again.
        """
        request = self._idle.pop() if self._idle else self._new()
        request.url = request.original_url = url
        request.headers[_AUTHORIZATION] = authorization(url)
        try:
            response = await self._send(request)
        finally:
            # What is kept shows in dumps of objects.
            del request.headers[_AUTHORIZATION]
        request.response = None
        self._idle.append(request)
        return response

    def _new(self) -> aiohttp.ClientRequest:
        request = copy.copy(self._model)
        request.headers = self._model.headers.copy()
        return request
