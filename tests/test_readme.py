"""What a newcomer copies works: the README's Python blocks in order, and every example."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a block writes, it writes outside the repository."""
    monkeypatch.chdir(tmp_path)


def test_readme_blocks_run_as_one_session() -> None:
    text = README.read_text(encoding="utf-8")
    blocks = list(re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    assert len(blocks) == text.count("```python") > 0
    session: dict[str, object] = {"__name__": "__main__"}
    for block in blocks:
        # Empty lines above the block make tracebacks name the README's own line.
        above = "\n" * text.count("\n", 0, block.start(1))
        exec(compile(above + block[1], README, "exec"), session)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example(path: Path) -> None:
    assert path.read_text(encoding="utf-8").count("\n") <= 100
    runpy.run_path(str(path), run_name="__main__")
