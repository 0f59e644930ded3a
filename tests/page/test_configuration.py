"""Pages of the configuration: in use, problems, earlier versions, and the difference to the candidate."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from bridge.app.composition import load_config
from tests.app.test_api import Tokens
from tests.kit.daemon import DaemonFixture, running
from tests.page.browser import opened, violations
from tests.page.shop import web_of

pytestmark = pytest.mark.asyncio(loop_scope="session")
FLOWS = "def start(ctx, given):\n    return given\n"
CONFIG = """
sources: {orders: {broker: local, topics: [orders], codec: json, no_match: ignore}}
routes:
  - name: large
    from: orders
    when: payload.total > 100
    schedule: {orchestration: start, instance_id: "{{ payload.id }}"}
"""
NOTE = "<script>alert(1)</script>"
CANDIDATE = CONFIG.replace("total > 100", f"total > 1000 && payload.note != '{NOTE}'")


@pytest_asyncio.fixture(loop_scope="session")
async def daemon(tmp_path: Path) -> AsyncIterator[DaemonFixture]:
    """Daemon whose rules have a candidate."""
    async with running(tmp_path, CONFIG, FLOWS) as found:
        file = tmp_path / "bridge.yaml"
        text = file.read_text()
        (tmp_path / "candidate.yaml").write_text(text.replace(CONFIG, CANDIDATE))
        file.write_text(text + "rules: {candidate: candidate.yaml}\n")
        found.daemon.use(load_config([file]), None)
        yield found


async def _view(page: Page, name: str) -> None:
    await page.locator(".tabs").get_by_role("link", name=name, exact=True).click()
    assert await violations(page) == [], name


@pytest.mark.parametrize("javascript", [True, False])
async def test_the_views_of_a_configuration(
    browser: Browser, daemon: DaemonFixture, tmp_path: Path, javascript: bool
) -> None:
    tokens = Tokens(tmp_path / "tokens")
    web = web_of(daemon, tokens.access)
    await web.start()
    try:
        async with opened(browser, javascript=javascript, token=tokens.tokens["operator", False]) as page:
            await page.goto(f"{web.url}/config")
            await expect(page.locator("pre.tall")).to_contain_text("payload.total > 100")
            if javascript:
                await _view(page, "Problems")
                await _view(page, "History")
                await _view(page, "Candidate")
            else:
                await page.goto(f"{web.url}/config?view=candidate")
            changed = page.locator("tr", has_text="routes.large")
            await expect(changed).to_contain_text("payload.total > 100")
            await expect(changed).to_contain_text("payload.total > 1000")
            await expect(changed).to_contain_text(NOTE)  # a text, not a script
            await page.get_by_role("link", name="What would a reload change?").click()
            await expect(page.get_by_text("only a running daemon has a configuration to reload")).to_be_visible()
    finally:
        await web.stop()
