"""Model folders, whatever is in them: whole or refused; and where the hub comes in."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from cdeq import pretrained
from cdeq.errors import CDEQError, StoreError
from cdeq.models.vision.contraction import ContractionDEQ, ContractionSpec
from cdeq.pretrained import CONFIG, WEIGHTS, check_kind, load_folder, save_folder

CONTENTS = {"kind": "Line", "spec": {"width": 3, "name": "ü", "none": None}}


def line(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(3, 2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_folder(tmp_path / "deep" / "model", line(), CONTENTS)
    return tmp_path / "deep" / "model"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def refusal(folder: Path) -> str:
    with pytest.raises(StoreError) as caught:
        load_folder(folder)
    return str(caught.value)


def test_what_is_saved_is_loaded(folder: Path) -> None:
    config, state = load_folder(folder)
    assert {key: config[key] for key in CONTENTS} == CONTENTS
    assert state.keys() == line().state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in line().state_dict().items())


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(4, 6).T,
        torch.randn(10)[::3],
        torch.randn(2, 3).expand(4, 2, 3),
        torch.zeros(0, 3),
        torch.tensor(2.5),
        torch.tensor([1, -2]),
        torch.tensor([True, False]),
        torch.randn(5, dtype=torch.bfloat16),
        torch.tensor([torch.nan, torch.inf, -0.0]),
    ],
    ids=lambda tensor: f"{tensor.dtype}-{tuple(tensor.shape)}",
)
def test_any_tensor_survives(tensor: torch.Tensor, tmp_path: Path) -> None:
    module = nn.Module()
    module.register_buffer("kept", tensor)
    save_folder(tmp_path, module, {})
    kept = load_folder(tmp_path)[1]["kept"]
    assert kept.dtype == tensor.dtype
    torch.testing.assert_close(kept, tensor, rtol=0, atol=0, equal_nan=True)


def test_tied_weights_come_back_in_both_places(tmp_path: Path) -> None:
    module = nn.Sequential(line(), line())
    module[1].weight = module[0].weight
    save_folder(tmp_path, module, {})
    _, state = load_folder(tmp_path)
    assert torch.equal(state["0.weight"], state["1.weight"])


def test_saving_replaces_and_leaves_nothing_else(folder: Path) -> None:
    save_folder(folder, line(seed=1), CONTENTS)
    _, state = load_folder(folder)
    assert torch.equal(state["weight"], line(seed=1).weight)
    assert list(contents(folder)) == [CONFIG, WEIGHTS]


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert f"lacks ['{name}']" in refusal(folder)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert f"lacks ['{WEIGHTS}', '{CONFIG}']" in refusal(tmp_path / "nowhere")


@pytest.mark.parametrize("place", [0, 5, 60, -1])
def test_a_changed_byte_of_the_weights_is_noticed(folder: Path, place: int) -> None:
    weights = bytearray((folder / WEIGHTS).read_bytes())
    weights[place] ^= 1
    (folder / WEIGHTS).write_bytes(weights)
    before = contents(folder)
    assert "damaged or half replaced" in refusal(folder)
    assert contents(folder) == before


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_truncated_file_is_noticed(folder: Path, name: str, share: float) -> None:
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: int(share * len(whole))])
    assert "save it again" in refusal(folder)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", '{"format": 1}', '{"format": 1, "sha256": 5}', "\udcff"]
)
def test_settings_that_are_none_are_refused(folder: Path, text: str) -> None:
    (folder / CONFIG).write_bytes(text.encode(errors="surrogateescape"))
    assert "save it again" in refusal(folder)


def test_another_format_is_refused(folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"format": 2}))
    assert "describes format 2" in refusal(folder)


def test_a_full_disk_leaves_the_old_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(folder)

    def refuse(path: Path, content: bytes) -> None:
        raise StoreError("no room")

    monkeypatch.setattr(pretrained, "write_atomic", refuse)
    with pytest.raises(StoreError, match="no room"):
        save_folder(folder, line(seed=1), CONTENTS)
    assert contents(folder) == before


def test_a_model_that_was_half_replaced_is_recognised(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the two files."""
    write = pretrained.write_atomic

    def die_before_settings(path: Path, content: bytes) -> None:
        if path.name == CONFIG:
            raise KeyboardInterrupt
        write(path, content)

    monkeypatch.setattr(pretrained, "write_atomic", die_before_settings)
    with pytest.raises(KeyboardInterrupt):
        save_folder(folder, line(seed=1), CONTENTS)
    assert "damaged or half replaced" in refusal(folder)


def test_kinds_are_told_apart() -> None:
    check_kind({"kind": "Line"}, "Line", "here")
    with pytest.raises(StoreError, match="here holds a Line, not a Circle"):
        check_kind({"kind": "Line"}, "Circle", "here")
    with pytest.raises(StoreError, match="here holds a None, not a Circle"):
        check_kind({}, "Circle", "here")


# The hub


def test_without_the_hub_package_the_sentence_says_what_to_do(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CDEQError) as caught:
        load_folder("owner/model")
    assert str(caught.value) == (
        "'owner/model' is no folder here, so it would be a hub repository, which needs "
        "`huggingface_hub`; install cdeq[language], or give a folder."
    )


class Hub(ModuleType):
    """A hub that holds one model."""

    def __init__(self, folder: Path) -> None:
        super().__init__("huggingface_hub")
        self.folder, self.asked = folder, list[str]()

    def snapshot_download(self, repository: str) -> str:
        self.asked.append(repository)
        return str(self.folder)


def test_a_hub_repository_is_a_folder_further_away(tmp_path: Path, monkeypatch) -> None:
    model = ContractionDEQ(ContractionSpec(channels=2))
    model.save_pretrained(tmp_path)
    hub = Hub(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    read = ContractionDEQ.from_pretrained("owner/model")
    assert hub.asked == ["owner/model"]
    assert torch.equal(read.head.weight, model.head.weight)


@pytest.mark.parametrize("source", ["model", "a/b/c", "/a/b", Path("a/b/c")])
def test_what_is_no_repository_is_not_asked_for(source: object, tmp_path, monkeypatch) -> None:
    hub = Hub(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match="a model folder holds"):
        load_folder(source)  # type: ignore[arg-type]
    assert hub.asked == []


def test_a_folder_here_comes_before_the_hub(tmp_path: Path, monkeypatch) -> None:
    hub = Hub(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    monkeypatch.chdir(tmp_path)
    save_folder("owner/model", line(), CONTENTS)
    assert load_folder("owner/model")[0]["kind"] == "Line"
    assert hub.asked == []
