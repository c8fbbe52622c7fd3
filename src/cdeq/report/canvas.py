"""The sheet a picture is drawn on: our look while drawing, whole files, the same bytes each time.

Matplotlib (extra `report`) is imported by the functions that need it.
"""

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cdeq.atomic import write_atomic
from cdeq.report.styles import LOOK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_METADATA = {".png": {"Software": None}, ".svg": {"Date": None, "Creator": None}}


@contextmanager
def look() -> Iterator[None]:
    """Draws with `LOOK`, whatever the user's matplotlib settings are, and leaves those alone.

    Raises:
        ImportError: If matplotlib is missing.

    Example:
        >>> import matplotlib
        >>> with look():
        ...     print(matplotlib.rcParams["legend.frameon"])
        False
    """
    try:
        from matplotlib import style
    except ImportError as error:
        raise ImportError(
            "drawing needs matplotlib, which is not installed; install `cdeq[report]`."
        ) from error
    with style.context(LOOK, after_reset=True):
        yield


def save(path: str | os.PathLike[str], draw: Callable[[], "Figure"]) -> None:
    """Draws a figure into a file; the same figure gives the same bytes.

    Arguments:
        path: A `.png` or `.svg` file; an earlier one is replaced, missing folders are made.
        draw: Makes the figure, once the path is known to be usable.

    Raises:
        ValueError: If the suffix is another one.
        StoreError: If the file cannot be written.

    Example:
        >>> save("picture.jpeg", lambda: None)
        Traceback (most recent call last):
        ValueError: `path` must end in .png or .svg, the kinds drawn here; got `picture.jpeg`.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _METADATA:
        raise ValueError(f"`path` must end in .png or .svg, the kinds drawn here; got `{path}`.")
    buffer = io.BytesIO()
    figure = draw()
    with look():
        figure.savefig(buffer, format=suffix[1:], metadata=_METADATA[suffix])
    write_atomic(path, buffer.getvalue())
