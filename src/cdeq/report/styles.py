"""How each model looks in every picture: a colour and a marker of its own.

Students are warm, thick and on top; what they are compared with is cool and thin. The colours are
those of Okabe and Ito, plus a grey and a dark red that differ from them in lightness too, so that
they stay apart under the common forms of colour blindness.

References:
    | Color Universal Design (Okabe & Ito, 2008)
    | https://jfly.uni-koeln.de/color/
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cdeq.report.rows import sort_models

INK = "#333333"
"""Text, axes and the converged teacher."""

LOOK = {
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "figure.constrained_layout.use": True,
    "figure.figsize": (7.6, 4.2),
    "font.size": 10,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.handlelength": 3.0,
    "legend.labelspacing": 0.7,
    "savefig.dpi": 180,
    "svg.hashsalt": "cdeq",  # otherwise the ids in an SVG differ from run to run
    "text.parse_math": False,  # a dollar in a name is a dollar
    "xtick.color": INK,
    "ytick.color": INK,
}
"""Matplotlib settings of every picture, on top of its defaults."""


@dataclass(frozen=True)
class Style:
    """The look of one model's curve.

    Arguments:
        colour: A hexadecimal colour.
        marker: A matplotlib marker.
        line: A matplotlib line style.
        prominent: Whether the curve is thick and drawn over the others.
        size: The marker's size in points; some shapes need more to look as large.

    Example:
        >>> styles(["student-paper"])["student-paper"].marker
        '*'
    """

    colour: str
    marker: str
    line: str = "-"
    prominent: bool = False
    size: float = 6.0


_OWN = {
    "teacher": Style(INK, "o"),
    "picard": Style("#8C8C8C", "o"),
    "anderson": Style("#0072B2", "s"),
    "broyden": Style("#56B4E9", "^"),
    "few-step": Style("#009E73", "D", "--"),
    "hypersolver": Style("#CC79A7", "v"),
    "student-paper": Style("#D55E00", "*", "-", True, 12.0),
    "student-paper-no-aa": Style("#E69F00", "X", "--", True, 8.0),
    "student-best": Style("#7A0026", "P", "-", True, 9.5),
}

_OTHERS = tuple(
    Style(colour, marker, ":")
    for marker, colour in zip("<>phdH8", ("#5B4A8A", "#6B8E23", "#8B5A2B") * 3, strict=False)
)


def styles(models: Sequence[str]) -> dict[str, Style]:
    """Gives every model its look; the project's own models always have the same one.

    Other names share a short list of looks in alphabetical order.

    Arguments:
        models: The models of one picture.

    Example:
        >>> looks = styles(["gat", "anderson"])
        >>> looks["anderson"] == styles(["anderson"])["anderson"]
        True
    """
    others = sort_models(name for name in models if name not in _OWN)
    foreign = {name: _OTHERS[i % len(_OTHERS)] for i, name in enumerate(others)}
    return {name: _OWN.get(name) or foreign[name] for name in models}
