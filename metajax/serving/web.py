"""The web service: it takes new events of a person and returns their list; and a page that uses it.

    GET  /api/model                      what the model is, and its k-shot curve
    GET  /api/search?q=al                items by title or id
    GET  /api/users/ID?top=10            what a person has said, and their list
    POST /api/users/ID/events            {"events": [{"item": 7, "value": 5}], "top": 10}
    POST /api/users/ID/undo              takes the last event back

A value of null takes the event of an item back. The answer is the person's list; an error is
{"error": "one line"} with status 400.
"""

import asyncio
import collections
import functools
import json
import math
import pathlib
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from metajax.serving import linear
from metajax.serving.model import Model
from metajax.serving.store import Event, Store
from metajax.types import UserError

PAGE = pathlib.Path(__file__).parent / "page"
FILES = {
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
LONGEST_BODY = 1 << 16
MOST_EVENTS = 100  # of one request
MOST_OF_A_USER = 1000
MOST_ITEMS = 200
REMEMBERED = 100_000  # people whose events are kept in memory


class Service:
    """The service of one model, with the events of people in a store."""

    def __init__(self, model: Model, store: Store):
        self.model, self.store = model, store
        self._known: collections.OrderedDict[str, list[Event]] = collections.OrderedDict()
        self._by_id = {str(one): place for place, one in enumerate(model.catalogue.ids.tolist())}

    def events(self, user: str) -> list[Event]:
        """The events of a person on items that the model has."""
        found = self._known.get(user)
        if found is None:
            found = [one for one in self.store.events(user) if one.item in self._by_id]
            self._known[user] = found
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        self._known.move_to_end(user)
        return found

    async def observe(self, user: str, said: list[dict[str, Any]]) -> None:
        """Stores new events of a person, and returns when they are on the disk.

        Raises:
          UserError: an event is not understood; nothing is stored.
        """
        new = [self._event(one) for one in said]
        after = {one.item: one for one in self.events(user)}
        for one in new:
            after.pop(one.item, None)
            if one.value is not None:
                after[one.item] = one
        if len(after) > MOST_OF_A_USER:
            raise UserError(f"more than {MOST_OF_A_USER} events of one person")
        await asyncio.wrap_future(self.store.add(user, new))
        self._known.pop(user, None)

    async def undo(self, user: str) -> None:
        """Takes the last event of a person back."""
        await asyncio.wrap_future(self.store.undo(user))
        self._known.pop(user, None)

    def _event(self, said: Any) -> Event:
        """One event of a request, checked."""
        if not isinstance(said, dict) or not {"item", "value"} >= said.keys() or "item" not in said:
            raise UserError('an event is {"item": ID, "value": NUMBER}')
        name, value = said["item"], said.get("value", 1.0 if self.model.labels.events else None)
        if not isinstance(name, str | int) or isinstance(name, bool):
            raise UserError("an item is called by its id or title")
        item = self._by_id.get(str(name))
        item = self.model.catalogue.find(name) if item is None else item
        title = self.model.catalogue.title(item)
        if value is not None:
            self.model.labels.encode({title: value})
        elif "value" not in said:
            raise UserError(f"no value for {title!r}; null takes it back")
        return Event(str(self.model.catalogue.id(item)), None if value is None else float(value))

    def answer(self, user: str, top: int, why: bool, curve: bool) -> dict[str, Any]:
        """The events of a person and their list, as JSON.

        Args:
          top: length of the list.
          why: whether each item has the events that moved its score.
          curve: whether each event has the score that was predicted from the events before it.
        """
        model, said = self.model, self.events(user)
        items = np.array([self._by_id[one.item] for one in said], np.int64)
        values = [float(one.value or 0.0) for one in said]
        labels = model.labels.encode({one.item: v for one, v in zip(said, values, strict=True)})
        title = model.catalogue.title
        events = [
            {"id": model.catalogue.id(i), "title": title(i), "value": v}
            for i, v in zip(items.tolist(), values, strict=True)
        ]
        if why or curve:
            found = [self._told(one) for one in model.best(items, labels, top)]
        else:
            chosen, scores = model.ranked(items, labels, top)
            ids = model.catalogue.ids[chosen].tolist()
            pairs = zip(ids, chosen.tolist(), scores.tolist(), strict=True)
            found = [{"id": i, "title": title(item), "score": score} for i, item, score in pairs]
        if curve:
            for event, expected in zip(events, self._expected(items, labels), strict=True):
                event["expected"] = expected
        return {"user": user, "model": model.identity, "events": events, "items": found}

    def _told(self, one: Any) -> dict[str, Any]:
        why = [
            {"title": r.title, "value": r.value, "moved": round(r.moved, 4)} for r in one.reasons
        ]
        count = int(self.model.popularity[one.item])
        return {"id": one.id, "title": one.title, "score": one.score, "why": why, "count": count}

    def _expected(self, items: np.ndarray, labels: np.ndarray) -> list[float]:
        """What was predicted of each event before it, from those before it alone."""
        form, out = self.model.form, []
        state = linear.start(form)
        for i in range(len(items)):
            out.append(self.model.shown(float(linear.predict(form, state, items[i : i + 1])[0])))
            state = linear.adapt(form, state, items[i : i + 1], labels[i : i + 1])
        return out

    def about(self) -> dict[str, Any]:
        """Facts about the model for the page and clients, as JSON."""
        labels, valid = self.model.labels, self.model.about["validation"]
        saved = self.model.about["arm"]
        plain = next(iter(valid["arms"]))
        return {
            "name": self.model.about["log"]["name"],
            "arm": saved,
            "identity": self.model.identity,
            "kind": labels.kind,
            "low": labels.low,
            "high": labels.high,
            "items": len(self.model.catalogue),
            "titles": self.model.catalogue.titles is not None,
            "curve": {
                "metric": valid["metric"],
                "events": valid["events"],
                "users": valid["users"],
                "saved": valid["arms"][saved],
                "plain": valid["arms"][plain],
                "plain_name": plain,
            },
        }


def application(service: Service, hosts: frozenset[str] | None) -> Starlette:
    """The web application of a service.

    Args:
      hosts: what a request may call this machine; anything else is refused, so that no page of
        another site can speak to a service on the loopback address. None lets every name pass.
    """
    guard = functools.partial(_guarded, hosts)
    calls: dict[tuple[str, str], Callable[[Request], Awaitable[Any]]] = {}

    async def about(request: Request) -> Any:
        return service.about()

    async def search(request: Request) -> Any:
        text = request.query_params.get("q", "")[:200]
        found = service.model.catalogue.search(text, 12)
        item = service.model.catalogue
        return {"items": [{"id": item.id(i), "title": item.title(i)} for i in found]}

    async def user(request: Request) -> Any:
        query = request.query_params
        flags = (query.get("why") == "1", query.get("curve") == "1")
        return service.answer(_user(request), _top(query.get("top", "10")), *flags)

    async def events(request: Request) -> Any:
        body = await _body(request)
        said = body.get("events")
        if not isinstance(said, list) or not 1 <= len(said) <= MOST_EVENTS:
            raise UserError(f"events: give a list of 1 to {MOST_EVENTS}")
        name, top = _user(request), _top(body.get("top", 10))
        flags = (body.get("why") is True, body.get("curve") is True)
        await service.observe(name, said)
        return service.answer(name, top, *flags)

    async def undo(request: Request) -> Any:
        body, name = await _body(request), _user(request)
        await service.undo(name)
        flags = (body.get("why") is True, body.get("curve") is True)
        return service.answer(name, _top(body.get("top", 10)), *flags)

    async def ping(request: Request) -> Any:
        await _body(request)
        return {}

    calls[("/api/model", "GET")] = about
    calls[("/api/search", "GET")] = search
    calls[("/api/users/{user}", "GET")] = user
    calls[("/api/users/{user}/events", "POST")] = events
    calls[("/api/users/{user}/undo", "POST")] = undo
    calls[("/api/ping", "POST")] = ping
    routes = [
        Route(path, guard(_answered(call)), methods=[method])
        for (path, method), call in calls.items()
    ]
    pages = [Route(path, guard(_file(*file)), methods=["GET"]) for path, file in FILES.items()]
    return Starlette(routes=[*routes, *pages])


Handler = Callable[[Request], Awaitable[Response]]


def _guarded(hosts: frozenset[str] | None, handler: Handler) -> Handler:
    """The handler, for requests to a known host, with the headers of every answer."""

    async def guarded(request: Request) -> Response:
        if hosts is not None and request.headers.get("host", "") not in hosts:
            response = _json({"error": "this service answers to its own address only"}, 400)
        else:
            response = await handler(request)
        response.headers.update(HEADERS)
        return response

    return guarded


def _answered(call: Callable[[Request], Awaitable[Any]]) -> Handler:
    """The handler that answers with JSON, and with one line for what a person can mend."""

    async def handler(request: Request) -> Response:
        try:
            return _json(await call(request))
        except UserError as error:
            return _json({"error": str(error)}, 400)

    return handler


def _json(value: Any, status: int = 200) -> Response:
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Response(text, status, media_type="application/json")


def _file(name: str, kind: str) -> Handler:
    text = (PAGE / name).read_bytes()

    async def handler(request: Request) -> Response:
        return Response(text, media_type=kind)

    return handler


async def _body(request: Request) -> dict[str, Any]:
    """The JSON object of a request.

    Raises:
      UserError: it is too long, of another type, or no JSON object.
    """
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise UserError("send JSON with the content type application/json")
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > LONGEST_BODY:
            raise UserError(f"the body is longer than {LONGEST_BODY} bytes")
    try:
        found = json.loads(body or b"{}", parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise UserError("the body is not JSON") from None
    if not isinstance(found, dict):
        raise UserError("the body is not a JSON object")
    return found


def _no_constant(text: str) -> None:
    raise ValueError(text)


def _user(request: Request) -> str:
    name = request.path_params["user"]
    if not 0 < len(name) <= 64 or not name.isprintable():
        raise UserError("a user is called by 1 to 64 printable characters")
    return name


def _top(value: Any) -> int:
    text = str(value)
    number = math.nan if isinstance(value, bool) or not text.isdecimal() else int(text[:9])
    if not 1 <= number <= MOST_ITEMS:
        raise UserError(f"top: give a whole number from 1 to {MOST_ITEMS}")
    return int(number)
