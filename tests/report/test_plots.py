"""Pictures: they hold exactly the rows, look the same everywhere, and come out whole."""

import builtins
import math
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import pytest

from cdeq.errors import StoreError
from cdeq.report import MODELS, Results, Row, curve, draw
from cdeq.report.styles import styles

NFE = (1, 2, 3, 4, 5, 8, 16)
ACCURACY = {
    "picard": (0.15, 0.18, 0.25, 0.36, 0.49, 0.78, 0.94),
    "anderson": (0.183, 0.207, 0.311, 0.491, 0.722, 0.928, 0.974),
    "few-step": (0.955, 0.983, 0.985, 0.984),
    "student-paper": (0.485, 0.676, 0.791, 0.831, 0.848, 0.852, 0.852),
    "student-best": (0.867, 0.963, 0.963, 0.967, 0.967, 0.976, 0.969),
}


def results(*rows: Row) -> Results:
    return Results("digits", "digits", rows, {}, {}, "cdeq demo")


def sweep(metric: str = "accuracy", spread: float | None = 0.02) -> Results:
    """The shape of the digits table, three seeds; rows in falling order of budget."""
    seeds = (0, 1, 2) if spread is not None else (0,)
    rows = [
        Row(model, nfe, metric, "test", value, spread, seeds)
        for model, values in ACCURACY.items()
        for nfe, value in reversed([*zip(NFE, values, strict=False)])
    ]
    return results(Row("teacher", None, metric, "test", 0.967, spread, seeds), *rows)


def curves(source: Results, metric: str = "accuracy") -> dict[str, list[tuple[float, float]]]:
    """The drawn points by label, without the horizontal lines."""
    lines = [
        line for line in draw(source, metric, "test").axes[0].lines if line.get_marker() != "None"
    ]
    return {
        str(line.get_label()): [
            (float(x), float(y)) for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
        ]
        for line in lines
    }


def levels(source: Results, metric: str = "accuracy") -> dict[str, tuple[str, float]]:
    """The horizontal lines by label: their style and height."""
    lines = [
        line for line in draw(source, metric, "test").axes[0].lines if line.get_marker() == "None"
    ]
    return {str(line.get_label()): (line.get_linestyle(), line.get_ydata()[0]) for line in lines}


@pytest.mark.parametrize("metric", ["accuracy", "relative_residual", "perplexity"])
@pytest.mark.parametrize("spread", [None, 0.02])
def test_the_curves_are_the_rows(metric: str, spread: float | None) -> None:
    expected = {model: [*zip(NFE, values, strict=False)] for model, values in ACCURACY.items()}
    assert curves(sweep(metric, spread), metric) == expected


def test_the_bands_are_value_plus_and_minus_spread() -> None:
    source = results(
        Row("picard", 1, "accuracy", "test", 0.5, 0.1, (0, 1)),
        Row("picard", 2, "accuracy", "test", 0.75, 0.05, (0, 1)),
    )
    (band,) = draw(source, "accuracy", "test").axes[0].collections
    corners = {(float(x), round(float(y), 12)) for x, y in band.get_paths()[0].vertices}
    assert corners == {(1, 0.4), (1, 0.6), (2, 0.7), (2, 0.8)}


def test_a_band_that_reaches_below_zero_keeps_the_logarithmic_axis() -> None:
    limits = {
        spread: draw(sweep("relative_error", spread), "relative_error", "test").axes[0].get_ylim()
        for spread in (None, 3.0)
    }
    assert limits[3.0] == limits[None]
    assert 0.1 < limits[None][0] < 0.15


def test_the_converged_teacher_is_a_dotted_line() -> None:
    assert levels(sweep()) == {"teacher, converged: 0.967": (":", 0.967)}


def test_the_teacher_is_a_level_even_if_it_is_a_curve_too() -> None:
    early = Row("teacher", 1, "accuracy", "test", 0.2, None, (0,))
    assert levels(results(*sweep().rows, early)) == levels(sweep())
    assert curves(results(*sweep().rows, early))["teacher"] == [(1, 0.2)]


def test_residuals_have_no_level_to_reach() -> None:
    assert levels(sweep("relative_residual"), "relative_residual") == {}


def test_models_without_a_budget_are_levels_and_a_solver_run_to_the_end_is_not() -> None:
    explicit = [
        Row(model, None, "accuracy", "test", 0.5, None, (0,))
        for model in ("resnet", "anderson", "alexnet")
    ]
    assert levels(results(*sweep().rows, *explicit)) == {
        "teacher, converged: 0.967": (":", 0.967),
        "alexnet: 0.500": ("-.", 0.5),
        "resnet: 0.500": ("-.", 0.5),
    }


@pytest.mark.parametrize("budgets", [(3,), (4, 5), (5, 6, 7), (1, 100), NFE])
def test_ticks_stand_at_budgets_only(budgets: tuple[int, ...]) -> None:
    source = results(*(Row("m", k, "accuracy", "test", 0.5, None, (0,)) for k in budgets))
    axes = draw(source, "accuracy", "test").axes[0]
    assert [float(x) for x in axes.get_xticks()] == list(budgets)
    assert list(axes.get_xticks(minor=True)) == []


@pytest.mark.parametrize(
    ("metric", "scale"),
    [("accuracy", "linear"), ("relative_residual", "log"), ("perplexity", "log")],
)
def test_axes(metric: str, scale: str) -> None:
    axes = draw(sweep(metric), metric, "test").axes[0]
    assert axes.get_yscale() == scale
    assert axes.get_xscale() == "log"
    assert [float(x) for x in axes.get_xticks()] == [float(nfe) for nfe in NFE]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == [str(nfe) for nfe in NFE]


def test_crowded_budgets_share_ticks_but_not_points() -> None:
    source = results(*(Row("m", k, "accuracy", "test", 0.5, None, (0,)) for k in range(1, 65)))
    ticks = [float(x) for x in draw(source, "accuracy", "test").axes[0].get_xticks()]
    assert ticks[:4] == [1, 2, 3, 4]
    assert all(math.log2(b / a) > 0.3 for a, b in pairwise(ticks))
    assert len(curves(source)["m"]) == 64


@pytest.mark.parametrize(
    ("metric", "label"),
    [
        ("accuracy", "picard\n(inf at 2, nan at 4)"),
        ("perplexity", "picard\n(inf at 2, nan at 4, 0 at 8)"),
    ],
)
def test_points_that_cannot_be_shown_are_told(metric: str, label: str) -> None:
    values = {1: 0.5, 2: math.inf, 4: math.nan, 8: 0.0}
    source = results(*(Row("picard", k, metric, "test", v, None, (0,)) for k, v in values.items()))
    (drawn,) = curves(source, metric).items()
    assert drawn[0] == label
    assert drawn[1][0] == (1, 0.5)
    assert math.isnan(drawn[1][1][1])


def test_the_legend_lists_students_first() -> None:
    (legend,) = draw(sweep(), "accuracy", "test").legends
    names = [text.get_text() for text in legend.get_texts()]
    rest = ["picard", "anderson", "few-step", "teacher, converged: 0.967"]
    assert names == ["student-paper", "student-best", *rest]


def test_every_model_has_its_own_look_and_keeps_it() -> None:
    looks = styles([*MODELS, "gcn", "gat", "alexnet"])
    assert len({(look.colour, look.marker) for look in looks.values()}) == len(looks)
    assert len({looks[model].colour for model in MODELS}) == len(MODELS)
    assert len({looks[model].marker for model in MODELS if model != "teacher"}) == len(MODELS) - 1
    assert all(styles([model])[model] == looks[model] for model in MODELS)
    assert [model for model in looks if looks[model].prominent] == list(MODELS[-3:])


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_same_results_give_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    curve(sweep(), "accuracy", "test", tmp_path / f"a{suffix}")
    with matplotlib.rc_context({"figure.facecolor": "red", "svg.hashsalt": "other"}):
        curve(sweep(), "accuracy", "test", tmp_path / f"b{suffix}")
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_suffixes_choose_the_kind_of_file(tmp_path: Path) -> None:
    curve(sweep(), "accuracy", "test", tmp_path / "new" / "picture.PNG")
    curve(sweep(), "accuracy", "test", tmp_path / "new" / "picture.svg")
    assert (tmp_path / "new" / "picture.PNG").read_bytes().startswith(b"\x89PNG\r\n")
    root = ElementTree.parse(tmp_path / "new" / "picture.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"


def test_the_title_is_made_given_or_left_out() -> None:
    assert draw(sweep(), "accuracy", "test").axes[0].get_title("left") == "digits"
    other = Results("digits", "tiny", sweep().rows, {}, {}, "cdeq demo")
    assert draw(other, "accuracy", "test").axes[0].get_title("left") == "digits (tiny)"
    assert draw(sweep(), "accuracy", "test", title="Mine").axes[0].get_title("left") == "Mine"
    assert draw(sweep(), "accuracy", "test", title="").axes[0].get_title("left") == ""


def test_drawing_leaves_the_settings_alone(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    curve(sweep(), "accuracy", "test", tmp_path / "picture.png")
    assert dict(matplotlib.rcParams) == before


def test_drawing_needs_no_global_figures(tmp_path: Path) -> None:
    code = f"""
import sys
from cdeq.report import Results, Row, curve
assert "matplotlib" not in sys.modules
row = Row("picard", 1, "accuracy", "test", 0.5, None, (0,))
curve(Results("t", "r", (row,), {{}}, {{}}, "c"), "accuracy", "test", {str(tmp_path / "p.png")!r})
assert "matplotlib.pyplot" not in sys.modules
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert (tmp_path / "p.png").stat().st_size > 0


@pytest.mark.parametrize("name", ["picture.pdf", "picture", "png"])
def test_other_suffixes_are_refused_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"must end in \.png or \.svg"):
        curve(sweep(), "accuracy", "test", tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="'accuracy' on 'train'; there is accuracy on test"):
        draw(sweep(), "accuracy", "train")
    with pytest.raises(ValueError, match="converged ones only"):
        draw(results(sweep().rows[0]), "accuracy", "test")
    with pytest.raises(ValueError, match="direction is known"):
        draw(sweep("beauty"), "beauty", "test")


def test_a_failed_picture_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "picture.png").write_bytes(b"earlier")
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(StoreError, match="No space left"):
        curve(sweep(), "accuracy", "test", tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes() == b"earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    real = builtins.__import__

    def missing(name: str, *rest: object) -> object:
        if name.split(".")[0] == "matplotlib":
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"cdeq\[report\]"):
        draw(sweep(), "accuracy", "test")
