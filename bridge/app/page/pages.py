"""Pages of the site, in the order of the navigation."""

from __future__ import annotations

from bridge.app.page.audit import AUDIT
from bridge.app.page.configuration import CONFIGURATION
from bridge.app.page.dead_letters import DEAD_LETTERS, ONE_DEAD_LETTER
from bridge.app.page.entities import ENTITIES, ONE_ENTITY
from bridge.app.page.instances import INSTANCES, ONE_INSTANCE, TIMELINE_FILE
from bridge.app.page.jobs import JOBS, ONE_JOB
from bridge.app.page.messages import MESSAGES, ONE_MESSAGE
from bridge.app.page.overview import FLOW_FILE, OVERVIEW
from bridge.app.page.sagas import SAGAS
from bridge.app.page.visit import Page
from bridge.app.page.waiting import WAITING

PAGES: tuple[Page, ...] = (
    OVERVIEW,
    FLOW_FILE,
    MESSAGES,
    ONE_MESSAGE,
    DEAD_LETTERS,
    ONE_DEAD_LETTER,
    INSTANCES,
    ONE_INSTANCE,
    TIMELINE_FILE,
    SAGAS,
    WAITING,
    JOBS,
    ONE_JOB,
    ENTITIES,
    ONE_ENTITY,
    CONFIGURATION,
    AUDIT,
)
