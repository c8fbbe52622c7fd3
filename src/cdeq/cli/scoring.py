"""The last stages of a run: evaluate, and report as tables and pictures."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from cdeq.atomic import write_atomic
from cdeq.cli.baselines import explicit_models, few_step_models
from cdeq.cli.distilling import student_stage
from cdeq.cli.measuring import Baselines, measure, measure_scores
from cdeq.cli.run_folder import DONE, versions
from cdeq.cli.stages import Run
from cdeq.data.indexed import IndexedData
from cdeq.digest import digest_of
from cdeq.errors import CDEQError
from cdeq.models.base import EquilibriumModel
from cdeq.recipes.base import Recipe, Splits
from cdeq.recipes.variants import AnyDistilled
from cdeq.report import (
    Results,
    Row,
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

RESULTS = "results.json"


def evaluate(run: Run) -> Results:
    """Score the teacher, its solvers, and every trained student and baseline on the test set.

    Raises:
        CDEQError: When there is no teacher yet.
        StoreError: When something in the folder was made with other settings.
    """
    recipe, teacher, path = run.recipe, run.teacher(), run.folder / RESULTS
    students = trained_students(run, teacher)
    baselines = Baselines(few_step_models(run), explicit_models(run))
    stage = run.stage(
        "evaluation",
        evaluation=recipe.evaluation,
        inference=recipe.student.inference,
        data={name: recipe.data_digest(part) for name, part in _parts(run, *Splits._fields[1:])},
        further=_further(recipe) or None,
    )
    named = {"teacher": teacher, **students, **baselines.named()}
    done = {"models": {name: digest_of(model) for name, model in named.items()}}
    if run.finished(stage) == done and path.exists():
        run.console.print(f"Evaluation: already done, see {path}.")
        return Results.load(path)
    run.begin(stage)
    rows = [
        Row(model, nfe, metric, name, value, None, (recipe.seed,))
        for name, part in _parts(run, *recipe.evaluation.splits)
        for model, nfe, metric, value in measure(run, teacher, students, baselines, part)
    ] + [
        Row(model, nfe, metric, name, value, None, (recipe.seed,))
        for name, part in recipe.further_data().items()
        for model, nfe, metric, value in measure_scores(run, teacher, students, baselines, part)
    ]
    results = Results(
        task=recipe.task,
        recipe=run.name,
        rows=tuple(rows),
        costs=_costs(run, teacher_parameters=sum(p.numel() for p in teacher.parameters())),
        versions=versions(),
        command=run.command,
    )
    results.save(path)
    stage.finish(done)
    return results


def _further(recipe: Recipe) -> dict[str, str]:
    """Fingerprints of what is reported on besides."""
    return {name: recipe.data_digest(part) for name, part in recipe.further_data().items()}


def _parts(run: Run, *names: str) -> Iterator[tuple[str, IndexedData]]:
    """Parts of the data by name."""
    return ((name, getattr(run.data, name)) for name in names)


def trained_students(run: Run, teacher: EquilibriumModel) -> dict[str, AnyDistilled]:
    """The finished ones."""
    students = run.recipe.students
    stages = {name: student_stage(run, name, teacher) for name in students}
    return {
        name: students[name].read(stage.folder, teacher).to(teacher.device)
        for name, stage in stages.items()
        if stage.outcome() is not None
    }


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


def _costs(run: Run, teacher_parameters: int) -> dict[str, float]:
    """Training seconds of every finished stage, and sizes."""
    costs: dict[str, float] = {"teacher_parameters": teacher_parameters}
    for path in sorted(run.folder.glob(f"*/{DONE}")):
        outcome = json.loads(path.read_text())["outcome"]
        if "seconds" in outcome:
            costs[f"{path.parent.name}_seconds"] = round(outcome["seconds"], 1)
    return costs
