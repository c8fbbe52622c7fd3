"""What a classifier of images needs besides its weights: names of classes, what files become."""

import json
from dataclasses import dataclass
from pathlib import Path

from cdeq.atomic import write_atomic
from cdeq.data.framing import Framing
from cdeq.errors import StoreError
from cdeq.plain import from_plain, to_plain


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The classes of a classifier, and what becomes of a file that it is to classify.

    Arguments:
        classes: Their names, in the order of the logits.
        framing: Makes pixels of a file.
    """

    classes: tuple[str, ...]
    framing: Framing

    def save(self, path: Path) -> None:
        """Write them.

        Raises:
            StoreError: When that is not possible.
        """
        write_atomic(path, (json.dumps(to_plain(self), indent=2) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> "Labels":
        """What `save` wrote.

        Raises:
            StoreError: When it is missing or damaged.

        Example:
            >>> Labels.load(Path("nowhere.json"))
            Traceback (most recent call last):
            ...
            cdeq.errors.StoreError: nowhere.json does not hold the names of classes ...
        """
        try:
            return from_plain(cls, json.loads(path.read_text()))
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{path} does not hold the names of classes ({error}); train the teacher again."
            ) from error
