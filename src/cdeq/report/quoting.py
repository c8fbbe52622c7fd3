"""Tables quoted in a Markdown file, kept equal to the result files they come from.

A quotation stands between one of these lines and an `<!-- end -->`:

    <!-- table FILE METRIC -->                  a metric by budget, see `pivot`
    <!-- table FILE METRIC MODEL,MODEL,… -->    the same, of these models only
    <!-- table FILE METRIC MODEL,… NFE,NFE,… -->    the same, at these budgets only
    <!-- summary FILE METRIC METRIC … -->       metrics without a budget, see `summary`
    <!-- listing FILE NFE,NFE,… METRIC … -->    several metrics at budgets (`-` for converged and
                                                explicit models), see `listing`
    <!-- listing FILE NFE,NFE,… METRIC … "models=MODEL,MODEL,…" -->    the same, of these only
    <!-- ratios FILE -->                        ratios of measured costs

All but ratios are of test data, or of other data where a last word `split=NAME` says so.
`python -m cdeq.report.quoting README.md docs/results/*.md` renews all of them, and a test refuses
stale ones.
"""

import json
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from cdeq.atomic import write_atomic
from cdeq.report.listing import listing
from cdeq.report.results import Results
from cdeq.report.tables import pivot, summary

_QUOTE = re.compile(
    r"(<!-- (table|summary|listing|ratios) (\S+)((?: [^\n]+?)?) -->\n).*?(<!-- end -->)", re.DOTALL
)
MODELS, SPLIT = "models=", "split="
_BUDGETS = re.compile(r"(\d+|-)(,(\d+|-))*")
"""Numbers of evaluations, and `-` for none."""


def renew(text: str, folder: Path) -> str:
    """The text with every quotation replaced by what its result file says now.

    Arguments:
        text: Markdown.
        folder: What the files are named relative to.

    Raises:
        StoreError: When a result file is missing or damaged.
        ValueError: When a quotation has too few or too many words, or asks for a metric or a
            model that the file does not have.

    Example:
        >>> renew("No quotation, no change.", Path("."))
        'No quotation, no change.'
    """

    def quoted(match: re.Match[str]) -> str:
        opening, kind, file, words, closing = match.groups()
        said, split = _split(shlex.split(words))
        return f"{opening}{_quotation(kind, folder / file, said, split)}\n{closing}"

    return _QUOTE.sub(quoted, text)


def _split(words: list[str]) -> tuple[list[str], str]:
    if words and words[-1].startswith(SPLIT):
        return words[:-1], words[-1].removeprefix(SPLIT)
    return words, "test"


def _quotation(kind: str, path: Path, words: Sequence[str], split: str) -> str:
    match kind, words:
        case "table", [metric]:
            return pivot(Results.load(path), metric, split).markdown()
        case "table", [metric, models]:
            return pivot(Results.load(path), metric, split, models=models.split(",")).markdown()
        case "table", [metric, models, budgets] if _BUDGETS.fullmatch(budgets):
            chosen, at = models.split(","), _budgets(budgets)
            return pivot(Results.load(path), metric, split, models=chosen, budgets=at).markdown()
        case "summary", [_, *_]:
            return summary(Results.load(path), words, split).markdown()
        case "listing", [budgets, _, *_] if _BUDGETS.fullmatch(budgets):
            return _listing(path, budgets, words[1:], split)
        case "ratios", []:
            return _ratios(path)
        case _:
            raise ValueError(
                "a quotation must read `table FILE METRIC`, `table FILE METRIC MODEL,MODEL`, "
                "`table FILE METRIC MODEL,MODEL NFE,NFE`, `summary FILE METRIC METRIC`, "
                "`listing FILE NFE,NFE METRIC METRIC` or `ratios FILE`; "
                f"got `{' '.join([kind, str(path), *words])}`."
            )


def _budgets(text: str) -> list[int | None]:
    return [None if nfe == "-" else int(nfe) for nfe in text.split(",")]


def _listing(path: Path, budgets: str, words: Sequence[str], split: str) -> str:
    wanted = _budgets(budgets)
    metrics, models = words, None
    if words[-1].startswith(MODELS):
        metrics, models = words[:-1], words[-1].removeprefix(MODELS).split(",")
    return listing(Results.load(path), metrics, wanted, split, models=models).markdown()


def _ratios(path: Path) -> str:
    contents = json.loads(path.read_text(encoding="utf-8"))
    rows = (f"| {contents['meaning'][n]} | {v:.2f} |" for n, v in contents["ratios"].items())
    return "\n".join(("| cost | ratio |", "| --- | ---: |", *rows))


if __name__ == "__main__":
    for name in sys.argv[1:]:
        target = Path(name)
        renewed = renew(target.read_text(encoding="utf-8"), target.parent)
        write_atomic(target, renewed.encode())
