"""Tables quoted in a Markdown file, kept equal to the result files they come from.

A quotation stands between `<!-- table FILE METRIC -->`, or `<!-- ratios FILE -->`, and an
`<!-- end -->`. `python -m cdeq.report.quoting README.md` renews all of them, and a test refuses
stale ones.
"""

import json
import re
import sys
from pathlib import Path

from cdeq.atomic import write_atomic
from cdeq.report.results import Results
from cdeq.report.tables import pivot

_QUOTE = re.compile(r"(<!-- (table|ratios) (\S+)(?: (\S+))? -->\n).*?(<!-- end -->)", re.DOTALL)


def renew(text: str, folder: Path) -> str:
    """The text with every quotation replaced by what its result file says now.

    Arguments:
        text: Markdown.
        folder: What the files are named relative to.

    Raises:
        StoreError: When a result file is missing or damaged.

    Example:
        >>> renew("No quotation, no change.", Path("."))
        'No quotation, no change.'
    """

    def quoted(match: re.Match[str]) -> str:
        opening, kind, file, metric, closing = match.groups()
        path = folder / file
        table = _ratios(path) if kind == "ratios" else _table(path, metric)
        return f"{opening}{table}\n{closing}"

    return _QUOTE.sub(quoted, text)


def _table(path: Path, metric: str) -> str:
    return pivot(Results.load(path), metric, "test").markdown()


def _ratios(path: Path) -> str:
    contents = json.loads(path.read_text(encoding="utf-8"))
    rows = (f"| {contents['meaning'][n]} | {v:.2f} |" for n, v in contents["ratios"].items())
    return "\n".join(("| cost | ratio |", "| --- | ---: |", *rows))


if __name__ == "__main__":
    for name in sys.argv[1:]:
        target = Path(name)
        renewed = renew(target.read_text(encoding="utf-8"), target.parent)
        write_atomic(target, renewed.encode())
