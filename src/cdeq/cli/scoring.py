"""The last stages of a run: evaluate, and report as tables and pictures."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from cdeq.cli.run_folder import DONE, command, versions
from cdeq.cli.stages import Run
from cdeq.core.solvers import Anderson, Broyden, Picard
from cdeq.errors import CDEQError
from cdeq.evaluation.sweep import Measurement, Method, distilled, score_few_step, sweep, truncated
from cdeq.recipes.base import Splits
from cdeq.report import Results, Row, curve, merge, pivot

RESULTS = "results.json"


def evaluate(run: Run) -> Results:
    """Score the teacher, its solvers and every trained student on the test set."""
    recipe, data = run.recipe, run.recipe.data()
    teacher = run.teacher()
    methods: dict[str, Method] = {
        "picard": truncated(Picard()),
        "anderson": truncated(Anderson()),
        "broyden": truncated(Broyden()),
    }
    for name in _finished(run.folder, "student-"):
        methods[name] = distilled(run.student(name), recipe.student.inference)
    settings = recipe.evaluation
    rounds = len(methods) * -(-len(data.test) // settings.batch_size)
    with Progress(console=run.console) as progress:
        bar = progress.add_task("evaluating on test    ", total=rounds)
        measured = sweep(
            teacher,
            methods,
            data.test,
            recipe.metric,
            settings.budgets,
            reference_steps=settings.reference_steps,
            batch_size=settings.batch_size,
            advance=lambda: progress.advance(bar),
        )
    measured.extend(_few_step(run, data))
    results = Results(
        task=recipe.task,
        recipe=run.name,
        rows=tuple(_row(measurement, recipe.seed) for measurement in measured),
        costs=_costs(run, teacher_parameters=sum(p.numel() for p in teacher.parameters())),
        versions=versions(),
        command=command(),
    )
    results.save(run.folder / RESULTS)
    show(results, run.console)
    return results


def report(folders: Sequence[Path], output: Path, console: Console) -> Results:
    """Merge the results of runs that differ in their seed, and write table and pictures.

    Writes `output`.json, `output`.md, and one picture for the task metric and one for the
    residual.

    Arguments:
        folders: Run folders, or result files.
        output: Where to write, without suffix.
        console: Where the names of the pictures are shown.
    """
    paths = [folder / RESULTS if folder.is_dir() else folder for folder in folders]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise CDEQError(f"a report needs results; missing {missing}; run `cdeq evaluate` first.")
    loaded = [Results.load(path) for path in paths]
    results = loaded[0] if len(loaded) == 1 else merge(loaded)
    results.save(output.with_suffix(".json"))
    metrics = _metrics(results)
    tables = "\n\n".join(
        _heading(m, results) + pivot(results, m, "test").markdown() for m in metrics
    )
    output.with_suffix(".md").write_text(tables + "\n")
    for metric in metrics:
        path = output.with_name(f"{output.name}-{metric.replace('_', '-')}.png")
        curve(results, metric, "test", path)
        console.print(f"picture: {path}", highlight=False, soft_wrap=True)
    return results


def show(results: Results, console: Console) -> None:
    """Print one table a metric."""
    for metric in _metrics(results):
        console.print(f"\n{_title(metric, results)}")
        console.print(
            escape(pivot(results, metric, "test").text()), highlight=False, soft_wrap=True
        )


def _metrics(results: Results) -> list[str]:
    return list(dict.fromkeys(row.metric for row in results.rows))


def _title(metric: str, results: Results) -> str:
    seeds = len(results.rows[0].seeds)
    spread = f", mean ± standard deviation over {seeds} seeds" if seeds > 1 else ""
    return f"{metric} on test, by evaluations of f{spread}"


def _heading(metric: str, results: Results) -> str:
    return f"### {_title(metric, results)}\n\n"


def _few_step(run: Run, data: Splits) -> Iterator[Measurement]:
    for name in _finished(run.folder, "few-step-"):
        model = run.recipe.read_model(str(run.folder / name))
        yield score_few_step(model, int(name.rsplit("-", 1)[1]), data.test, run.recipe.metric)


def _finished(folder: Path, prefix: str) -> list[str]:
    found = (path.parent.name for path in folder.glob(f"{prefix}*/{DONE}"))
    return sorted(found, key=lambda name: (len(name), name))


def _row(measurement: Measurement, seed: int) -> Row:
    model, nfe, metric, value = measurement
    return Row(model, nfe, metric, "test", value, None, (seed,))


def _costs(run: Run, teacher_parameters: int) -> dict[str, float]:
    """Training seconds of every finished stage, and sizes."""
    costs: dict[str, float] = {"teacher_parameters": teacher_parameters}
    for path in sorted(run.folder.glob(f"*/{DONE}")):
        outcome = json.loads(path.read_text())["outcome"]
        costs[f"{path.parent.name}_seconds"] = round(outcome["seconds"], 1)
    return costs
