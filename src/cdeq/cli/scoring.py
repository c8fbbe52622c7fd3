"""The last stage of a run: report as tables and pictures."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from cdeq.atomic import write_atomic
from cdeq.cli.run_folder import RESULTS
from cdeq.errors import CDEQError
from cdeq.report import (
    Results,
    Table,
    combine,
    curve,
    find_metric,
    merge,
    panels,
    pivot,
    summary,
)
from cdeq.report.panels import ERROR


def report(
    folders: Sequence[Path], output: Path, console: Console, *, pictures: bool = True
) -> Results:
    """Merge the results of runs that differ in their seed, and write table and pictures.

    Writes `output`.json, `output`.md, and one picture for each metric where they are wanted.

    Arguments:
        folders: Run folders, or result files, at least one.
        output: Where to write, without suffix.
        console: Where the names of the pictures are shown.
        pictures: Whether to draw them.

    Raises:
        CDEQError: When there are no results.
    """
    paths = [folder / RESULTS if folder.is_dir() else folder for folder in folders]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing or not paths:
        raise CDEQError(
            f"a report needs results, and {', '.join(missing) or 'no folder was named'}"
            f"{' is not there' if missing else ''}; run `cdeq evaluate` first."
        )
    loaded = [Results.load(path) for path in paths]
    results = loaded[0] if len(loaded) == 1 else merge(loaded)
    _write(results, output)
    drawn = filter(lambda name: find_metric(name).drawn, _metrics(results)) if pictures else ()
    for metric in drawn:
        path = output.with_name(f"{output.name}-{metric.replace('_', '-')}.png")
        curve(results, metric, "test", path)
        console.print(f"picture: {path}", highlight=False, soft_wrap=True)
    return results


def combined(paths: Mapping[str, Path], output: Path) -> Results:
    """Put results of several recipes into one file, and write its tables.

    Raises:
        ValueError: When they are of different tasks.
        StoreError: When a result file is missing or damaged.
    """
    whole = combine({label: Results.load(path) for label, path in paths.items()}, output.name)
    _write(whole, output)
    return whole


def _write(results: Results, output: Path) -> None:
    """`output`.json and the tables in `output`.md."""
    results.save(output.with_name(f"{output.name}.json"))
    tables = (f"### {title}\n\n{table.markdown()}" for title, table in _tables(results))
    write_atomic(output.with_name(f"{output.name}.md"), "\n\n".join(tables).encode() + b"\n")


def compare(
    paths: Sequence[Path],
    models: Sequence[str],
    output: Path,
    console: Console,
    *,
    beside: str = ERROR,
) -> None:
    """Draw chosen models of several tasks: the task's metric, and another one beside it.

    Raises:
        ValueError: When a model was measured nowhere, or the picture is neither .png nor .svg.
        StoreError: When a result file is missing or damaged.
    """
    loaded = [Results.load(path) for path in paths]
    own = [_metrics(results)[0] for results in loaded]
    panels(loaded, own, "test", output, models=models, beside=beside)
    console.print(f"picture: {output}", highlight=False, soft_wrap=True)


def show(results: Results, console: Console) -> None:
    """Print one table a metric, and one of all that has no budget."""
    for title, table in _tables(results):
        console.print(f"\n{title}")
        console.print(escape(table.text()), highlight=False, soft_wrap=True)


def _tables(results: Results) -> Iterator[tuple[str, Table]]:
    for split in dict.fromkeys(row.split for row in results.rows):
        part = results.select(split=split)
        for metric in _metrics(part):
            title = f"{metric} on {split}, by evaluations of f{_spread(results)}"
            yield title, pivot(part, metric, split)
        if singles := _metrics(part, budgeted=False):
            title = f"costs and certified answers on {split}{_spread(results)}"
            yield title, summary(part, singles, split)


def _metrics(results: Results, *, budgeted: bool = True) -> list[str]:
    """The metrics that were measured at budgets, or those that were not."""
    all_of_them = dict.fromkeys(row.metric for row in results.rows)
    at_budgets = {row.metric for row in results.rows if row.nfe is not None}
    return [metric for metric in all_of_them if (metric in at_budgets) == budgeted]


def _spread(results: Results) -> str:
    counts = sorted({len(row.seeds) for row in results.rows})
    seeds = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    return f", median ± standard deviation over {seeds} seeds" if counts[-1] > 1 else ""
