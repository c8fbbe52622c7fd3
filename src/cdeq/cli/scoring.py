"""The last stages of a run: evaluate, and report as tables and pictures."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from cdeq.atomic import write_atomic
from cdeq.cli.run_folder import DONE, versions
from cdeq.cli.stages import Run, few_step_stage, student_stage
from cdeq.consistency.refine import Student
from cdeq.consistency.student import ConsistencyDEQ
from cdeq.consistency.untied import UntiedDEQ
from cdeq.core.solvers import Anderson, Broyden, Picard
from cdeq.digest import digest_of
from cdeq.errors import CDEQError
from cdeq.evaluation.sweep import Measurement, Method, distilled, score_few_step, sweep, truncated
from cdeq.models.base import EquilibriumModel
from cdeq.report import Results, Row, curve, merge, pivot

RESULTS = "results.json"

SOLVERS: Mapping[str, Method] = {
    "picard": truncated(Picard()),
    "anderson": truncated(Anderson()),
    "broyden": truncated(Broyden()),
}


def evaluate(run: Run) -> Results:
    """Score the teacher, its solvers, and every trained student and baseline on the test set.

    Raises:
        CDEQError: When there is no teacher yet.
        StoreError: When something in the folder was made with other settings.
    """
    recipe, teacher, path = run.recipe, run.teacher(), run.folder / RESULTS
    students, baselines = _students(run, teacher), _baselines(run)
    stage = run.stage(
        "evaluation",
        evaluation=recipe.evaluation,
        inference=recipe.student.inference,
        data=recipe.data_digest(run.data.test),
    )
    named = {"teacher": teacher, **students, **{str(n): model for n, model in baselines.items()}}
    done = {"models": {name: digest_of(model) for name, model in named.items()}}
    if run.finished(stage) == done and path.exists():
        run.console.print(f"Evaluation: already done, see {path}.")
        return Results.load(path)
    run.begin(stage)
    measured = _sweep(run, teacher, students)
    for steps, model in baselines.items():
        measured.append(score_few_step(model, steps, run.data.test, recipe.metric))
    results = Results(
        task=recipe.task,
        recipe=run.name,
        rows=tuple(_row(measurement, recipe.seed) for measurement in measured),
        costs=_costs(run, teacher_parameters=sum(p.numel() for p in teacher.parameters())),
        versions=versions(),
        command=run.command,
    )
    results.save(path)
    stage.finish(done)
    return results


def _students(run: Run, teacher: EquilibriumModel) -> dict[str, ConsistencyDEQ | UntiedDEQ]:
    """The finished ones."""
    students = run.recipe.students
    stages = {name: student_stage(run, name, teacher) for name in students}
    return {
        name: students[name].read(stage.folder, teacher).to(teacher.device)
        for name, stage in stages.items()
        if stage.outcome() is not None
    }


def _baselines(run: Run) -> dict[int, EquilibriumModel]:
    """The finished ones, by their number of steps."""
    names = (path.parent.name for path in run.folder.glob(f"few-step-*/{DONE}"))
    steps = sorted(int(name.rsplit("-", 1)[1]) for name in names)
    folders = {n: stage.folder for n in steps if (stage := few_step_stage(run, n)).outcome()}
    return {n: run.recipe.read_model(str(folder)) for n, folder in folders.items()}


def _sweep(
    run: Run, teacher: EquilibriumModel, students: Mapping[str, Student]
) -> list[Measurement]:
    settings, test = run.recipe.evaluation, run.data.test
    times = run.recipe.student.inference
    methods = {**SOLVERS, **{name: distilled(g, times) for name, g in students.items()}}
    rounds = len(methods) * -(-len(test) // settings.batch_size)
    with Progress(console=run.console) as progress:
        bar = progress.add_task("evaluating on test    ", total=rounds)
        return sweep(
            teacher,
            methods,
            test,
            run.recipe.metric,
            settings.budgets,
            reference_steps=settings.reference_steps,
            batch_size=settings.batch_size,
            advance=lambda: progress.advance(bar),
        )


def report(folders: Sequence[Path], output: Path, console: Console) -> Results:
    """Merge the results of runs that differ in their seed, and write table and pictures.

    Writes `output`.json, `output`.md, and one picture for each metric.

    Arguments:
        folders: Run folders, or result files, at least one.
        output: Where to write, without suffix.
        console: Where the names of the pictures are shown.

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
    results.save(output.with_name(f"{output.name}.json"))
    metrics = _metrics(results)
    tables = "\n\n".join(
        _heading(m, results) + pivot(results, m, "test").markdown() for m in metrics
    )
    write_atomic(output.with_name(f"{output.name}.md"), f"{tables}\n".encode())
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


def _row(measurement: Measurement, seed: int) -> Row:
    model, nfe, metric, value = measurement
    return Row(model, nfe, metric, "test", value, None, (seed,))


def _costs(run: Run, teacher_parameters: int) -> dict[str, float]:
    """Training seconds of every finished stage, and sizes."""
    costs: dict[str, float] = {"teacher_parameters": teacher_parameters}
    for path in sorted(run.folder.glob(f"*/{DONE}")):
        outcome = json.loads(path.read_text())["outcome"]
        if "seconds" in outcome:
            costs[f"{path.parent.name}_seconds"] = round(outcome["seconds"], 1)
    return costs
