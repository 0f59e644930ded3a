"""Ops port of a daemon: the API with its streams, the page, and answers to the questions of other daemons."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bridge.app.composition import build_access, build_peer_tls, build_sessions, build_tls, session_keys
from bridge.app.operations.operation import Reload
from bridge.app.page.pages import PAGES
from bridge.app.page.site import Site
from bridge.app.serve.control import largest_body, routes
from bridge.app.serve.views.all_daemons import OtherDaemons
from bridge.app.serve.views.lineage import in_flight
from bridge.app.serve.views.live import LiveStream
from bridge.app.serve.views.peers import PeerClient
from bridge.app.serve.views.status import DaemonStatus, daemon_id
from bridge.app.serve.views.tap import TAP, Taps
from bridge.app.serve.views.watch import Watch
from bridge.config.source import Loaded
from bridge.engines.base import Engine
from bridge.engines.workload import Workload
from bridge.ops.api import LIVE, STATUS, EventStream
from bridge.ops.peers import AnswerQuestion, PeerPort
from bridge.ops.web import Web
from bridge.pipeline.decisions import DecisionListeners
from bridge.pipeline.source import SourcePipeline


class OpsPort:
    """Server of the ops port, not started, with its API.

    routes, streams: the API, which the control channel offers too.
    """

    def __init__(
        self,
        loaded: Loaded,
        engines: Mapping[str, Engine],
        sources: Sequence[SourcePipeline],
        status: DaemonStatus,
        watch: Watch,
        decisions: DecisionListeners,
        *,
        current: Callable[[], Loaded],
        reload: Callable[[], Reload | None],
        candidate: Callable[[], Loaded | None],
        held: Callable[[str], Workload | None],
        is_intake: bool,
    ) -> None:
        """Create the server. current, reload, candidate, held: as for `control.routes`. Raises: ConfigError.

        decisions: listeners of the settled deliveries of the sources.
        is_intake: the process consumes sources.
        """
        self._sources = sources
        self._status = status
        http = loaded.config.ops.http
        own, keys = daemon_id(os.getpid()), session_keys(loaded)
        client = (
            None
            if keys is None
            else PeerClient(keys, lambda: self.web.peer_url, build_peer_tls(loaded), http.peers.server_name)
        )
        others = OtherDaemons(own, status.peers, client)
        self.routes = routes(loaded, engines, status.document, sources, current, reload, candidate, held, others)
        taps = Taps(current, decisions)
        self.streams = [EventStream(TAP, taps.events), EventStream(LIVE, LiveStream(status.document, taps).events)]
        access = build_access(loaded)
        if not is_intake and "port" not in http.model_fields_set:
            # The default port belongs to the intake process beside this one
            http = http.model_copy(update={"port": 0})
        self.web = Web(
            http,
            watch.health,
            watch.scrape,
            build_tls(loaded),
            self.routes,
            self.streams,
            access,
            largest_body(loaded),
            Site(PAGES, self.routes, current, others.status),
            build_sessions(loaded, access, keys),
            None if keys is None else PeerPort(keys, own, self._peer_answers()),
        )

    def _peer_answers(self) -> Mapping[str, AnswerQuestion]:
        """Answers to the questions of other daemons: what every caller of the API may read."""

        async def status(given: Mapping[str, Any]) -> Any:
            return await self._status.document()

        async def messages(given: Mapping[str, Any]) -> Any:
            return in_flight(self._sources, str(given["message"]))

        return {STATUS: status, "messages.show": messages}
