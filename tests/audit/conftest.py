"""One honest history for all tests of the replay; telling it takes about a second."""

from __future__ import annotations

import pytest

from tests.support.forge import Draft, drafts
from tests.support.story import Story, tell


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    return tell(tmp_path_factory.mktemp("host"))


@pytest.fixture
def history(story: Story) -> list[Draft]:
    return drafts(story.host)
