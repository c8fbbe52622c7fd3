"""What a cache was made from; a cache of anything else is refused."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch

from cdeq.errors import StoreError

FILE = "manifest.json"
VERSION = 1
"""Of the file format."""

DTYPES = {str(d).removeprefix("torch."): d for d in (torch.float64, torch.float32, torch.float16)}
DTYPES["bfloat16"] = torch.bfloat16
"""What states can be and can be stored in, by name."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The identity of a cache of trajectories.

    The virtual times are no part of it: a cache serves every schedule.

    Arguments:
        teacher: Digest of the teacher, see `digest_of`.
        data: Digest of the samples in the order of their indices, see `digest_of_tensors`.
        solver: The solver with its settings, such as `repr(Anderson())`.
        initial: How z_0 is made, such as `zero`.
        max_steps: The teacher's budget K ≥ 1; a trajectory has K + 1 states.
        samples: How many samples there are, at least 1.
        dtype: What the numbers are stored in: float64, float32, bfloat16 or float16.
        version: Version of the file format.

    Raises:
        ValueError: When a text is empty, a count below 1, or the dtype none of these.

    Example:
        >>> made = Manifest(teacher="a1", data="d1", solver="Picard()", initial="zero",
        ...                 max_steps=3, samples=10, dtype="float32")
        >>> Manifest.from_json(made.to_json()) == made
        True
        >>> from dataclasses import replace
        >>> made.differences(replace(made, teacher="a2"))
        ['teacher: expected a1, found a2']
    """

    teacher: str
    data: str
    solver: str
    initial: str
    max_steps: int
    samples: int
    dtype: str
    version: int = VERSION

    def __post_init__(self) -> None:
        for field in fields(self):
            value, kind = getattr(self, field.name), field.type
            if type(value) is not kind or (value == "" if kind is str else value < 1):
                wanted = "a text that is not empty" if kind is str else "a whole number from 1 up"
                empty = (
                    "; an empty data set has no trajectories" if field.name == "samples" else ""
                )
                raise ValueError(
                    f"`{field.name}` of a manifest is {wanted}{empty}; got {value!r}."
                )
        if self.dtype not in DTYPES:
            raise ValueError(f"`dtype` is one of {', '.join(DTYPES)}; got {self.dtype!r}.")

    def digest(self) -> str:
        """The SHA-256 over all fields."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def differences(self, found: "Manifest") -> list[str]:
        """One line a field where `found` is not what this one expects; long digests are cut."""
        pairs = zip(asdict(self).items(), asdict(found).values(), strict=True)
        return [
            f"{name}: expected {_short(ours)}, found {_short(theirs)}"
            for (name, ours), theirs in pairs
            if ours != theirs
        ]

    def to_json(self) -> str:
        """All fields; the same text for equal manifests."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """The inverse of `to_json`.

        Raises:
            ValueError: When the text is no manifest in this version of the format.
        """
        found, names = json.loads(text), {field.name for field in fields(cls)}
        if not isinstance(found, dict) or found.get("version") != VERSION or set(found) != names:
            raise ValueError(
                f"a manifest in version {VERSION} of the format is a JSON object of "
                f"{', '.join(sorted(names))}; got {json.dumps(found)}"
            )
        return cls(**found)

    @classmethod
    def read(cls, root: Path) -> "Manifest | None":
        """The manifest of the cache in a folder, None where there is none.

        Raises:
            StoreError: When the file cannot be read as one.
        """
        if not (root / FILE).exists():
            return None
        try:
            return cls.from_json((root / FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StoreError(
                f"`{root / FILE}` should say what the cache was made from, but cannot be read "
                f"({error}); move the folder away and write the cache again."
            ) from error


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:12]}…" if re.fullmatch("[0-9a-f]{64}", text) else text
