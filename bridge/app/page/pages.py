"""Pages of the site, in the order of the navigation."""

from __future__ import annotations

from bridge.app.page.overview import FLOW_FILE, OVERVIEW
from bridge.app.page.visit import Page

PAGES: tuple[Page, ...] = (OVERVIEW, FLOW_FILE)
