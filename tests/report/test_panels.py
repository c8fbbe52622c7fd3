"""The picture of an ablation: every point in its panel, one legend, and nothing covered."""

import math
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cdeq.report import MODELS, Results, Row, draw_panels, panels
from cdeq.report.styles import styles, variants

NFE = (1, 2, 4, 8)
OURS = ["student-best", "untied-2", "student-kl"]
TASKS = {"digits": "accuracy", "words": "perplexity"}


def value(model: str, nfe: int, metric: str) -> float:
    return 1.0 + len(model) / 8 + nfe / 16 + len(metric) / 32


def task(name: str, models: list[str] = OURS) -> Results:
    """Rows of some variants, of two solvers, and of the teacher."""
    rows = [
        Row(model, nfe, metric, "test", value(model, nfe, metric), 0.01, (0, 1))
        for metric in (TASKS[name], "relative_error")
        for model in [*models, "anderson", "picard", "gcn"]
        for nfe in NFE
    ]
    teacher = Row("teacher", None, TASKS[name], "test", 1.5, 0.01, (0, 1))
    return Results(name, name, (teacher, *rows), {}, {}, "cdeq demo")


def drawn(axes: Axes) -> dict[str, list[tuple[float, float]]]:
    lines = [line for line in axes.lines if line.get_marker() != "None"]
    return {
        line.get_label(): [*map(tuple, zip(line.get_xdata(), line.get_ydata(), strict=True))]
        for line in lines
    }


def both(models: list[str] = OURS) -> Figure:
    source = [task(name, models) for name in TASKS]
    return draw_panels(source, list(TASKS.values()), "test", models=models)


def test_each_panel_holds_its_rows_and_no_other_model() -> None:
    figure = both()
    metrics = [m for metric in TASKS.values() for m in (metric, "relative_error")]
    assert len(figure.axes) == 4
    for axes, metric in zip(figure.axes, metrics, strict=True):
        assert drawn(axes) == {
            model: [(nfe, value(model, nfe, metric)) for nfe in NFE]
            for model in (*OURS, "anderson", "picard")
        }
        assert metric.replace("_", " ") in axes.get_ylabel()
    assert [axes.get_title("left") for axes in figure.axes] == ["digits"] * 2 + ["words"] * 2


def test_the_legend_lists_variants_as_given_then_references_once() -> None:
    for models in (OURS, OURS[::-1]):
        (legend,) = both(models).legends
        names = [text.get_text() for text in legend.get_texts()]
        assert names == [*models, "picard", "anderson", "teacher, converged"]


def test_the_teacher_is_a_level_of_the_task_metric_only() -> None:
    for axes, count in zip(both().axes, (1, 0, 1, 0), strict=True):
        levels = [line for line in axes.lines if line.get_marker() == "None"]
        assert [(line.get_linestyle(), line.get_ydata()[0]) for line in levels] == (
            [(":", 1.5)] * count
        )


@pytest.mark.parametrize("models", [OURS[:1], [f"student-variant-number-{k}" for k in range(12)]])
@pytest.mark.parametrize("tasks", [["digits"], list(TASKS)])
def test_the_legend_covers_nothing_and_fits(models: list[str], tasks: list[str]) -> None:
    source = [task(name, models) for name in tasks]
    figure = draw_panels(source, [TASKS[name] for name in tasks], "test", models=models)
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert not any(box.overlaps(axes.get_tightbbox()) for axes in figure.axes)
    assert 0 <= box.y0 < box.y1 <= figure.bbox.y1
    assert box.x1 <= figure.bbox.x1
    assert all(axes.bbox.width > 0.25 * figure.bbox.width for axes in figure.axes)


def test_references_are_thin_without_a_band_and_do_not_set_the_scale() -> None:
    far = Row("picard", 16, "accuracy", "test", -1e3, None, (0,))
    source = task("digits")
    source = Results("digits", "digits", (*source.rows, far), {}, {}, "cdeq demo")
    axes, plain = (
        draw_panels([s], ["accuracy"], "test", models=OURS).axes[0]
        for s in (source, task("digits"))
    )
    assert axes.get_ylim() == plain.get_ylim()
    assert drawn(axes)["picard"][-1] == (16, -1e3)
    widths = {line.get_label(): line.get_linewidth() for line in axes.lines}
    assert max(widths["picard"], widths["anderson"]) < min(widths[model] for model in OURS)
    bands = [patch for patch in axes.collections if len(patch.get_paths()[0].vertices)]
    assert len(bands) == len(OURS)


def test_every_shown_variant_and_the_teacher_are_inside() -> None:
    for axes in both().axes:
        low, high = axes.get_ylim()
        for model in OURS:
            assert all(low < y < high for _, y in drawn(axes)[model])
    assert both().axes[0].get_ylim()[0] < 1.5 < both().axes[0].get_ylim()[1]


def test_points_that_cannot_be_shown_are_told_under_their_panel() -> None:
    source = task("words")
    rows = list(source.rows)
    for number, row in enumerate(rows):
        if row.model == "untied-2" and row.metric == "perplexity" and row.nfe in (2, 8):
            shown = math.inf if row.nfe == 2 else 0.0
            rows[number] = Row(row.model, row.nfe, row.metric, row.split, shown, None, (0,))
    broken = Results("words", "words", tuple(rows[::-1]), {}, {}, "cdeq demo")
    left, right = draw_panels([broken], ["perplexity"], "test", models=OURS).axes
    assert left.get_xlabel().splitlines()[1:] == ["not shown: untied-2 (inf at 2, 0 at 8)"]
    assert right.get_xlabel() == "function evaluations (NFE)"


def test_a_solver_may_be_a_variant_itself() -> None:
    (legend,) = draw_panels([task("digits")], ["accuracy"], "test", models=["picard"]).legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["picard", "anderson", "teacher, converged"]


def test_a_variant_of_one_task_only_is_drawn_there() -> None:
    source = [task("digits", ["student-best", "student-kl"]), task("words", ["student-best"])]
    figure = draw_panels(
        source, list(TASKS.values()), "test", models=["student-best", "student-kl"]
    )
    assert ["student-kl" in drawn(axes) for axes in figure.axes] == [True, True, False, False]


def test_variants_differ_from_each_other_and_from_every_known_model() -> None:
    others = [f"v{k}" for k in range(12)]
    looks = variants([*others, *MODELS])
    assert len({look.colour for look in looks.values()}) == len(looks)
    assert len({(looks[name].marker, looks[name].line) for name in others}) == len(others)
    assert all(looks[name] == styles([name])[name] for name in MODELS)
    assert variants([*others[:3], "student-best"])["v2"] == looks["v2"]


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_file_is_the_same_each_time(tmp_path: Path, suffix: str) -> None:
    for name in "ab":
        path = tmp_path / f"{name}{suffix}"
        panels([task("digits")], ["accuracy"], "test", path, models=OURS)
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
    assert (tmp_path / f"a{suffix}").stat().st_size > 10_000


def test_arguments_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    one = [task("digits")]
    with pytest.raises(ValueError, match="got 2 for 1 results"):
        draw_panels(one, ["accuracy", "accuracy"], "test", models=OURS)
    with pytest.raises(ValueError, match="got 0 for 0 results"):
        draw_panels([], [], "test", models=OURS)
    with pytest.raises(ValueError, match=r"at least one; got \[\]"):
        draw_panels(one, ["accuracy"], "test", models=[])
    with pytest.raises(ValueError, match="each variant once"):
        draw_panels(one, ["accuracy"], "test", models=["untied-2", "untied-2"])
    with pytest.raises(ValueError, match="got 'untied-3', 'teacher', which are on none"):
        draw_panels(one, ["accuracy"], "test", models=["untied-3", "teacher", "untied-2"])
    with pytest.raises(ValueError, match="'accuracy' on 'test' of digits has none of them"):
        draw_panels(one, ["accuracy"], "test", models=["untied-3"])
    with pytest.raises(ValueError, match="nothing was measured for 'psnr'"):
        draw_panels(one, ["psnr"], "test", models=OURS)
    with pytest.raises(ValueError, match=r"must end in \.png or \.svg"):
        panels(one, ["accuracy"], "test", tmp_path / "a.pdf", models=OURS)
    assert list(tmp_path.iterdir()) == []


def test_another_metric_stands_beside_the_tasks_own() -> None:
    rows = tuple(
        Row("student-best", k, metric, "test", 0.5, None, (0,))
        for k in (1, 2, 4)
        for metric in ("accuracy", "relative_residual")
    )
    results = Results("digits", "digits", rows, {}, {}, "cdeq demo")
    figure = draw_panels(
        [results], ["accuracy"], "test", models=["student-best"], beside="relative_residual"
    )
    assert figure.axes[1].get_ylabel() == "test relative residual (↓ better)"
    with pytest.raises(ValueError, match="relative_error"):
        draw_panels([results], ["accuracy"], "test", models=["student-best"])


def test_no_title_runs_into_the_next_one() -> None:
    rows = tuple(
        Row("student-best", k, metric, "test", 0.5, None, (0,))
        for k in (1, 2)
        for metric in ("accuracy", "relative_error")
    )
    results = Results("a task with a name of many words", "a recipe of more", rows, {}, {}, "cdeq")
    figure = draw_panels([results], ["accuracy"], "test", models=["student-best"])
    figure.draw_without_rendering()
    left, right = (axes.title.get_window_extent() for axes in figure.axes)
    assert left.x1 < right.x0
