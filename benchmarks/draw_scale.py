"""The picture of `graph_scale.py`: time against edges, memory of the largest graph, its parts.

    python benchmarks/draw_scale.py results/graph-scale.json

draws it again, next to the file, in a second.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdeq.report.canvas import look, save
from cdeq.report.styles import INK, styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOOKS = {"picard": "picard", "student": "student-best", "student-picard": "student-paper-no-aa"}
"""Whose look in other pictures a method has in this one."""
NAMES = {
    "picard": "Picard",
    "student": "student, then Anderson",
    "student-picard": "student, then Picard",
}

Numbers = dict[str, Any]


def draw(contents: Numbers) -> "Figure":
    """Three panels; see the module.

    Arguments:
        contents: Of a result file.
    """
    with look():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11.5, 4.0))
        time, memory, states = figure.subplots(1, 3, width_ratios=(1.2, 1.0, 1.0))
        _draw_time(time, contents["evaluations"])
        _draw_memory(memory, contents)
        _draw_states(states, contents["inference"])
        handles, labels = states.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def _draw_time(axes: "Axes", rows: list[Numbers]) -> None:
    from matplotlib.ticker import EngFormatter

    edges, seconds = ([row[key] for row in rows] for key in ("edges", "seconds"))
    colour = styles(["anderson"])["anderson"].colour
    slope = [seconds[-1] * e / edges[-1] for e in edges]
    axes.plot(edges, slope, color=INK, linewidth=0.9, linestyle=":")
    axes.plot(edges, seconds, color=colour, marker="s", markeredgecolor="white")
    for row in rows:
        text = f"{1e3 * row['microseconds_per_entry']:.1f} ns"
        _beside(axes, text, (row["edges"], row["seconds"]), (7, -6))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.margins(x=0.2, y=0.12)
    axes.set_xlabel("undirected edges")
    axes.set_ylabel("seconds an evaluation (↓ better)")
    axes.set_title("Time, and that for each entry of A\n(dotted: in proportion to edges)")


def _draw_memory(axes: "Axes", contents: Numbers) -> None:
    """Bars of peaks at each budget on the largest graph, the part that was loaded hatched."""
    nodes = max(row["nodes"] for row in contents["inference"])
    rows = [row for row in contents["inference"] if row["nodes"] == nodes]
    budgets = sorted({row["nfe"] for row in rows})
    looks = styles(list(LOOKS.values()))
    width = 0.8 / len(LOOKS)
    for i, name in enumerate(LOOKS):
        for row in (row for row in rows if row["method"] == name):
            place = budgets.index(row["nfe"]) + (i - (len(LOOKS) - 1) / 2) * width
            axes.bar(place, row["peak_gib"], 0.92 * width, color=looks[LOOKS[name]].colour)
            axes.bar(place, row["loaded_gib"], 0.92 * width, color="white", alpha=0.55)
    axes.axhline(contents["limit_gib"], color=INK, linestyle="--", linewidth=1.0)
    axes.text(-0.45, contents["limit_gib"], "the limit", va="bottom", fontsize=9)
    axes.set_ylim(0, 1.15 * contents["limit_gib"])
    axes.set_xticks(range(len(budgets)), labels=[str(nfe) for nfe in budgets])
    axes.grid(False, axis="x")
    axes.set_xlabel("function evaluations (NFE)")
    axes.set_ylabel("peak memory, GiB (↓ better)")
    axes.set_title(f"Inference, {nodes:,} nodes\n(pale: Python, graph, features)")


def _draw_states(axes: "Axes", rows: list[Numbers]) -> None:
    """A line a method and budget: level where memory is linear in nodes."""
    from matplotlib.ticker import EngFormatter

    budgets = sorted({row["nfe"] for row in rows})
    ends: dict[float, set[int]] = {}
    for name in LOOKS:
        for nfe in budgets:
            points = [row for row in rows if (row["method"], row["nfe"]) == (name, nfe)]
            _draw_line(axes, points, label=NAMES[name] if nfe == budgets[0] else None)
            ends.setdefault(round(points[-1]["live_states"], 1), set()).add(nfe)
    largest = max(row["nodes"] for row in rows)
    for states, who in ends.items():
        text = ", ".join(map(str, sorted(who)))
        _beside(axes, text, (largest, states), (8, 0))
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.set_ylim(0, 1.1 * max(ends))
    axes.margins(x=0.2)
    axes.set_xlabel("nodes")
    axes.set_ylabel("states alive at once (↓ better)")
    axes.set_title("Memory of inference in states\n(at each line's end: its NFE)")


def _draw_line(axes: "Axes", points: list[Numbers], label: str | None) -> None:
    model = LOOKS[points[0]["method"]]
    style = styles([model])[model]
    axes.plot(
        [row["nodes"] for row in points],
        [row["live_states"] for row in points],
        label=label,
        color=style.colour,
        linestyle=style.line,
        linewidth=style.width,
        marker=style.marker,
        markersize=style.size,
        markeredgecolor="white",
        markeredgewidth=0.6,
        zorder=2 if style.prominent else 3,  # lines that coincide are both seen
    )


def _beside(axes: "Axes", text: str, place: tuple[float, float], offset: tuple[int, int]) -> None:
    axes.annotate(
        text,
        place,
        xytext=offset,
        textcoords="offset points",
        verticalalignment="center",
        fontsize=9,
    )


if __name__ == "__main__":
    source = Path(sys.argv[1])
    result = json.loads(source.read_text(encoding="utf-8"))
    save(source.with_suffix(".png"), lambda: draw(result))
