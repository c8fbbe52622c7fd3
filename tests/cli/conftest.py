"""One demo for all tests: to look at, and to copy when something is changed."""

import shutil
from pathlib import Path

import pytest
from cli.image_runs import small
from cli.run import Ended, tiny
from image_files import fill


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


@pytest.fixture(scope="session")
def image_demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """The folder of pictures and of the finished run on them, and what was said."""
    root = tmp_path_factory.mktemp("images")
    fill(root / "pictures", (14, 15, 16))
    return root, small("demo", root)


@pytest.fixture(scope="session")
def imaged(image_demo: tuple[Path, Ended]) -> Path:
    """That folder, not to be changed."""
    return image_demo[0]
