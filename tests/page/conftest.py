"""Shop that runs in the test process, with a browser in front of it. One of both for all tests of a process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from tests.page.browser import BrowserMissing, launched
from tests.page.shop import Shop, open_shop


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker(pytest.mark.long)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """Browser; the test is skipped on a machine without one."""
    try:
        async with launched() as found:
            yield found
    except BrowserMissing as missing:
        pytest.skip(str(missing))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shop(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    directory: Path = tmp_path_factory.mktemp("shop")
    async with open_shop(directory) as found:
        yield found
