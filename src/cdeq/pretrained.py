"""Model folders: `model.safetensors` and `config.json`, never a pickle."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from typing_extensions import Self

from cdeq.atomic import write_atomic
from cdeq.errors import CDEQError, StoreError
from cdeq.plain import Plain, from_plain, to_plain

WEIGHTS, CONFIG, FORMAT = "model.safetensors", "config.json", 1


def save_folder(
    folder: str | Path, source: nn.Module | Mapping[str, Tensor], config: Mapping[str, Plain]
) -> None:
    """Write weights and settings.

    The settings are written last and carry the digest of the weights, so a folder that was only
    half replaced is recognised.

    Arguments:
        folder: Made when missing; an older model in it is replaced.
        source: A module, whose `state_dict` is kept, or tensors by name.
        config: What `load_folder` gives back.

    Raises:
        StoreError: When the files cannot be written.
    """
    folder = Path(folder)
    named = source.state_dict() if isinstance(source, nn.Module) else source
    state = {  # copies, since the format keeps no tensors that share memory, as tied weights do
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in named.items()
    }
    weights = save(state)
    digest = hashlib.sha256(weights).hexdigest()
    contents = {"format": FORMAT, "sha256": digest, **config}
    write_atomic(folder / WEIGHTS, weights)
    write_atomic(folder / CONFIG, (json.dumps(contents, indent=2) + "\n").encode())


def load_folder(source: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read what `save_folder` wrote, from a folder or else a hub repository `owner/name`.

    Raises:
        StoreError: When a file is missing or damaged, or the weights are not those of the
            settings.
        CDEQError: When the source is a hub repository and `huggingface_hub` is not installed.
    """
    folder = _local(source)
    missing = [name for name in (WEIGHTS, CONFIG) if not (folder / name).is_file()]
    if missing:
        raise StoreError(f"a model folder holds {WEIGHTS} and {CONFIG}; {folder} lacks {missing}.")
    weights = (folder / WEIGHTS).read_bytes()
    try:
        config = json.loads((folder / CONFIG).read_text())
        found = hashlib.sha256(weights).hexdigest()
        if config["format"] != FORMAT or config["sha256"] != found:
            raise StoreError(
                f"{folder} is damaged or half replaced: {CONFIG} describes format "
                f"{config['format']}, weights {config['sha256'][:12]}, but {WEIGHTS} is format "
                f"{FORMAT}, {found[:12]}; save it again."
            )
        return config, load(weights)
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise StoreError(
            f"{folder} holds no readable model ({error!r}); save it again."
        ) from error


def _local(source: str | Path) -> Path:
    path = Path(source)
    if path.exists() or path.is_absolute() or str(source).count("/") != 1:
        return path
    try:
        from huggingface_hub import snapshot_download  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise CDEQError(
            f"{source!r} is no folder here, so it would be a hub repository, which needs "
            "`huggingface_hub`; install cdeq[language], or give a folder."
        ) from error
    return Path(snapshot_download(str(source)))


def check_kind(config: Mapping[str, Any], expected: str, source: str | Path) -> None:
    """Refuse a folder that holds another kind of model.

    Raises:
        StoreError: Says what was expected and what the folder holds.
    """
    if config.get("kind") != expected:
        raise StoreError(f"{source} holds a {config.get('kind')}, not a {expected}.")


@contextmanager
def making(kind: str, source: str | Path) -> Iterator[None]:
    """Say of settings and weights that do not go together that the folder is damaged.

    Raises:
        StoreError: When what is inside fails because of them.
    """
    try:
        yield
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise StoreError(
            f"{source} is damaged: its settings and weights make no {kind} ({error})."
        ) from error


class Pretrained(nn.Module):
    """A module that is built from its `Spec`, and can live in a folder.

    A subclass takes its specification as its constructor's one argument and keeps it as `spec`.
    """

    Spec: ClassVar[type]
    """The frozen dataclass of a subclass's settings, its constructor's one argument."""
    spec: Any

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model to a folder: weights as safetensors, settings as JSON."""
        save_folder(folder, self, {"kind": type(self).__name__, "spec": to_plain(self.spec)})

    @classmethod
    def from_pretrained(cls, source: str | Path) -> Self:
        """Read a model from a folder or, with `huggingface_hub` installed, from a hub repository.

        Raises:
            StoreError: When the folder is damaged or holds another kind of model.
        """
        config, weights = load_folder(source)
        check_kind(config, cls.__name__, source)
        with making(cls.__name__, source):
            model = cls(from_plain(cls.Spec, config["spec"]))
            model.load_state_dict(weights)
        return model.eval()
