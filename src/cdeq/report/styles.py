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
from itertools import cycle

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
        faint: Whether the curve only serves as a reference: thin and under the others.

    Example:
        >>> styles(["student-paper"])["student-paper"].marker
        '*'
    """

    colour: str
    marker: str
    line: str = "-"
    prominent: bool = False
    size: float = 6.0
    faint: bool = False

    @property
    def width(self) -> float:
        """The line's width in points."""
        return 2.2 if self.prominent else 0.9 if self.faint else 1.3

    @property
    def order(self) -> float:
        """What lies on top: a curve of higher order."""
        return 3 if self.prominent else 2.2 if self.faint else 2.5


_OWN = {
    "teacher": Style(INK, "o"),
    "picard": Style("#8C8C8C", "o"),
    "anderson": Style("#0072B2", "s"),
    "broyden": Style("#56B4E9", "^"),
    "few-step": Style("#009E73", "D", "--"),
    "hyperdeq": Style("#CC79A7", "v"),
    "ignn-solver": Style("#AA5599", "p", "--"),
    "student-paper": Style("#D55E00", "*", "-", True, 12.0),
    "student-paper-no-aa": Style("#E69F00", "X", "--", True, 8.0),
    "student-best": Style("#7A0026", "P", "-", True, 9.5),
}

_OTHERS = tuple(
    Style(colour, marker, ":")
    for marker, colour in zip("<>phdH8", ("#5B4A8A", "#6B8E23", "#8B5A2B") * 3, strict=False)
)

_VARIANTS = tuple(
    Style(colour, marker, line, size=size)
    for colour, (marker, size), line in zip(
        (
            "#4B2E9E", "#17A08C", "#C2308F", "#7A8B00", "#2B2B2B", "#D4697C",
            "#1F6B2D", "#9A6BD8", "#8B5A2B", "#5DB83C", "#F08FC0", "#3F7C85",
        ),
        (("o", 5.5), ("s", 5.0), ("^", 6.0), ("D", 5.0), ("v", 6.0), ("p", 6.5),
         (">", 6.0), ("h", 6.5), ("<", 6.0), ("d", 6.0), ("8", 6.0), ("X", 6.5)),
        ("-", "--", "-", "-.") * 3,
        strict=True,
    )
)  # fmt: skip


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


def variants(models: Sequence[str]) -> dict[str, Style]:
    """Gives each variant of an ablation its look; the project's own models keep theirs.

    The others take the looks of a list in the order given, twelve before one repeats. None has the
    grey and blue of the solvers, or the warm colours of our own students.

    Arguments:
        models: The variants of one picture.

    Example:
        >>> looks = variants(["student-best", "student-mse", "student-kl"])
        >>> looks["student-best"] == styles(["student-best"])["student-best"]
        True
        >>> [looks[name].line for name in ("student-mse", "student-kl")]
        ['-', '--']
    """
    others = [name for name in models if name not in _OWN]
    looks = dict(zip(others, cycle(_VARIANTS)))
    return {name: _OWN.get(name) or looks[name] for name in models}
