"""Which path is answered by what: all endpoints of the HTTP port, put together."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.message import Message
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from glimpse.server.access.call_metadata import REQUEST_ID_KEY, ROUTING_KEY
from glimpse.server.calls import Calls
from glimpse.server.domain import ModelSelector
from glimpse.server.fields import Names
from glimpse.server.http import answers, feedback, openapi, options, page, problems
from glimpse.server.http.body import Limit
from glimpse.server.http.classify import Classify
from glimpse.server.http.connection import Connection
from glimpse.server.http.endpoint import TIMEOUT_KEY, Asked, Endpoint, Work
from glimpse.server.http.feedback import Feedback
from glimpse.server.http.v1 import V1
from glimpse.server.http.v2 import HEADER_LENGTH, V2
from glimpse.server.messages.describe import describe, limits
from glimpse.server.service import Service
from glimpse.server.settings import Settings

# As the metrics and the audit log name it, where gRPC has the full name of a service.
SERVICE = "http"
_MODEL = "/models/{model}"
_VERSION = "/versions/{version}"


class Routes:
    """The ASGI application."""

    def __init__(self, service: Service, settings: Settings) -> None:
        """Answer for `service`."""
        self._service, self._settings = service, settings
        self._limits = limits(settings)
        v1, v2, classify = V1(service), V2(service, settings.max_images_per_request), Classify(service)
        both = ("", _VERSION)
        routes = [
            self._posts("/classify", "Classify", classify, names=classify.names),
            self._tells("/describe", "DescribeModel", self._describe),
            self._tells("/v1/models", "Models", v1.models),
            *(self._posts(f"/v1{_MODEL}{each}:predict", "Predict", v1.predict, names=v1.names) for each in both),
            *(self._tells(f"/v1{_MODEL}{each}", "Model", v1.model) for each in both),
            self._shows("/openapi.json", "Page", self._api),
        ]
        if settings.open_inference:
            routes += [
                self._tells("/v2", "ServerMetadata", v2.server),
                # Before the paths of models: no model can be described that is called so, as with Triton.
                self._tells("/v2/models/stats", "ModelStatistics", v2.all_stats),
                *(self._posts(f"/v2{_MODEL}{each}/infer", "ModelInfer", v2.infer, names=v2.names) for each in both),
                *(self._tells(f"/v2{_MODEL}{each}", "ModelMetadata", v2.model) for each in both),
                *(self._tells(f"/v2{_MODEL}{each}/ready", "ModelReady", v2.model_ready) for each in both),
                *(self._tells(f"/v2{_MODEL}{each}/config", "ModelConfig", v2.config) for each in both),
                *(self._tells(f"/v2{_MODEL}{each}/stats", "ModelStatistics", v2.stats) for each in both),
            ]
        if settings.feedback:
            routes.append(self._posts("/feedback", "Feedback", Feedback(service), names={}, limit=feedback.LIMIT))
        if settings.serve_health:
            routes += [
                self._shows("/v2/health/live", "ServerLive", v2.live, health=True),
                self._shows("/v2/health/ready", "ServerReady", v2.ready, health=True),
            ]
            if not settings.serve_page:
                routes.append(self._shows("/", "ServerLive", v1.live, health=True))
        if settings.serve_page:
            pages = page.files()
            if settings.serve_health:
                pages["/"] = _for_browsers(pages["/"], v1.live)
            routes += [self._shows(path, "Page", answer) for path, answer in pages.items()]
        self._paths = {route.path for route in routes}
        # Without the parts of the page, which nobody asks for by hand.
        known = (
            route.path for route in routes if not route.path.startswith("/page/") and "{version}" not in route.path
        )
        self._known = ", ".join(dict.fromkeys(known))
        router = Router(routes, redirect_slashes=False, default=self._no_such_path)
        self._app: ASGIApp = router
        if settings.http_origins:
            self._app = CORSMiddleware(
                router,
                allow_origins=settings.http_origins,
                allow_methods=["GET", "POST"],
                allow_headers=[
                    "authorization",
                    "content-type",
                    HEADER_LENGTH,
                    TIMEOUT_KEY,
                    REQUEST_ID_KEY,
                    ROUTING_KEY,
                ],
                expose_headers=[HEADER_LENGTH, REQUEST_ID_KEY, "retry-after"],
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["method"] == "OPTIONS":
            _count_unknown(self._service.calls, scope)
        await self._app(scope, receive, send)

    def _posts(self, path: str, name: str, work: Work, *, names: Names, limit: Limit | None = None) -> Route:
        """What takes a body; `limit` None: as large as a message may be."""
        method = self._service.calls.method("unary", SERVICE, name, classifies=True, names=names)
        endpoint = Endpoint(
            method,
            self._service.access,
            work,
            gate=self._service.place_for_call,
            limit=limit or Limit(self._settings.max_message_bytes, "GLIMPSE_MAX_MESSAGE_BYTES"),
        )
        return Route(path, _Only("POST", endpoint, self._service.calls))

    def _tells(self, path: str, name: str, work: Work) -> Route:
        """What tells of models, to those who may classify."""
        access = self._service.access
        method = self._service.calls.method("unary", SERVICE, name, names=options.SELECTOR)
        endpoint = Endpoint(method, access, work, public=access.descriptions)
        return Route(path, _Only("GET", endpoint, self._service.calls))

    def _shows(self, path: str, name: str, work: Work, *, health: bool = False) -> Route:
        """What anybody may see: it says nothing of models."""
        access = self._service.access
        method = self._service.calls.method("unary", SERVICE, name, probe=True)
        budget = access.checks if health else access.descriptions
        return Route(path, _Only("GET", Endpoint(method, access, work, public=budget), self._service.calls))

    async def _describe(self, asked: Asked) -> Response:
        """What `DescribeModel` tells, as JSON."""
        query = asked.request.query_params
        options.check_known(query, tuple(options.SELECTOR.values()))
        model = self._service.model(ModelSelector(query.get("model", ""), query.get("version", "")))
        told: Message = describe(model, self._limits)
        return answers.json_response(answers.message(told))

    async def _api(self, asked: Asked) -> Response:  # noqa: ARG002 - as every answer has it
        return answers.json_response(
            openapi.document(tokens=self._settings.tokens is not None, served=self._paths), page.SECURITY
        )

    async def _no_such_path(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "OPTIONS":  # else it has been counted
            _count_unknown(self._service.calls, scope)
        path = str(scope["path"])
        shown = ascii(path if len(path) <= 80 else path[:80] + "...")
        await problems.no_such_path(shown, f"Known: {self._known}.")(scope, receive, send)


def _for_browsers(shown: Work, otherwise: Work) -> Work:
    """A page for those who ask for HTML, as browsers do; something else for others (RFC 9110, section 12.5.1)."""

    async def answer(asked: Asked) -> Response:
        html = "text/html" in asked.request.headers.get("accept", "").lower()
        response = await (shown if html else otherwise)(asked)
        response.headers["vary"] = "Accept"
        return response

    return answer


class _Only:
    """An endpoint that has one method of HTTP; HEAD is GET without the body."""

    def __init__(self, verb: str, endpoint: Endpoint, calls: Calls) -> None:
        self._verbs: Sequence[str] = ("GET", "HEAD") if verb == "GET" else (verb,)
        self._endpoint, self._calls = endpoint, calls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["method"] in self._verbs:
            await self._endpoint(scope, receive, send)
            return
        if scope["method"] != "OPTIONS":
            _count_unknown(self._calls, scope)
        await problems.wrong_verb(ascii(scope["method"][:20]), self._verbs)(scope, receive, send)


def _count_unknown(calls: Calls, scope: Scope) -> None:
    """Tell the guard of a request that no method takes: they cost little, but a flood of them is one, too."""
    connection: Connection = scope["state"]["connection"]
    headers = [(key.decode("latin-1"), value.decode("latin-1")) for key, value in scope["headers"]]
    calls.unknown_method(headers, connection.peer, connection.port)
