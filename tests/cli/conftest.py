"""One demo for all tests: to look at, and to copy when something is changed."""

import shutil
from pathlib import Path

import pytest
from cli.run import Ended, tiny


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """The folder of a finished demo, and what was said."""
    folder = tmp_path_factory.mktemp("demo") / "run"
    return folder, tiny("demo", folder)


@pytest.fixture(scope="session")
def finished(demo: tuple[Path, Ended]) -> Path:
    """The folder of the demo, not to be changed."""
    return demo[0]


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the demo's folder."""
    return Path(shutil.copytree(finished, tmp_path / "run"))
