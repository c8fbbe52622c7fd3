"""The three exceptions of the library.

Misuse raises `ValueError` or `TypeError` at once; these three are for what only a run can show.
"""


class CDEQError(Exception):
    """Anything that cdeq itself found wrong while it ran."""


class SolveError(CDEQError):
    """A solve did not converge, and somebody asked for convergence with `Solution.check`."""


class StoreError(CDEQError):
    """A file on disk (cache, checkpoint, result) is damaged or belongs to something else."""
