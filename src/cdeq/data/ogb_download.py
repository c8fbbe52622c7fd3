"""The archives of the Open Graph Benchmark, fetched by its own package."""

import csv
import os
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

from cdeq.data.ogb_raw import OGBName, layout, require_layout
from cdeq.errors import CDEQError, StoreError


def download_ogb(root: str | os.PathLike[str], name: OGBName) -> Path:
    """The folder of a set under `root`, fetched and unpacked if it is not there.

    The set appears whole or not at all. `ogb` fetches and unpacks; its data set classes are left
    alone, because on their second start they `torch.load` a pickle of their own in a way that
    torch has refused since 2.6, and would need either its safe loading switched off or classes
    of numpy allowed in it, for everybody in the process. What they load is no more than what
    `read_ogb` reads from the raw files, where nothing can run code.

    Arguments:
        root: Where sets lie; made if it is missing.
        name: Which set.

    Returns:
        The folder, to be read by `read_ogb`.

    Raises:
        ValueError: When `read_ogb` knows no such set.
        CDEQError: When `ogb` is not installed, or the archive cannot be fetched.
        StoreError: When the folder is there, but not whole.
    """
    layout(name)  # refuses other sets before gigabytes of them have been fetched
    root = Path(root)
    folder = root / name.replace("-", "_")
    if folder.exists():
        require_layout(folder, name)
        return folder
    address, packed = _archive(name)
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=f".{folder.name}.") as place:
        _fetch(address, place, name)
        require_layout(Path(place, packed), name)
        os.replace(Path(place, packed), folder)
    return folder


def _archive(name: str) -> tuple[str, str]:
    """Where the archive is, and the folder in it, as the table in `ogb` has it."""
    spec = find_spec("ogb")  # importing ogb.nodeproppred would import every graph library there is
    if spec is None or spec.origin is None:
        raise CDEQError(f"{name} is fetched by `ogb`, which is missing; install cdeq[graph].")
    table = Path(spec.origin).parent / "nodeproppred" / "master.csv"
    with table.open(newline="") as file:
        header, *rows = csv.reader(file)
    facts = {row[0]: row[header.index(name)] for row in rows}
    return facts["url"], facts["download_name"]


def _fetch(address: str, place: str, name: str) -> None:
    from ogb.utils.url import download_url, extract_zip

    try:
        extract_zip(download_url(address, place, log=False), place, log=False)
    except (OSError, RuntimeError) as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # `ogb` makes it a RuntimeError
            raise KeyboardInterrupt from error
        raise CDEQError(
            f"{name} could not be fetched from {address} ({error}); try again, or unpack that "
            f"archive yourself and name the folder {name.replace('-', '_')}."
        ) from error
    except zipfile.BadZipFile as error:
        raise StoreError(f"the archive of {name} arrived damaged ({error}); try again.") from error
