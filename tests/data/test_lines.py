"""Reading in pieces is reading, parts are a partition, and bad files are named."""

from itertools import pairwise
from pathlib import Path

import pytest

from cdeq.data import lines
from cdeq.data.lines import Lines
from cdeq.errors import StoreError

CONTENT = "one\n\ntwo wörds\nthree\r\n\u2028 four\n" * 7


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_bytes(CONTENT.encode())
    return path


small = pytest.mark.parametrize("chunk", [1, 2, 7, 64, 1000])


@small
def test_pieces_are_whole_lines_and_all_of_them(
    path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "CHUNK", chunk)
    pieces = list(Lines(path=path).chunks())
    assert "".join(pieces) == CONTENT
    assert all(piece.endswith("\n") for piece in pieces)
    assert max(map(len, pieces)) < chunk + len("two wörds\n") + 1


@small
@pytest.mark.parametrize("shares", [(0.0, 0.5, 1.0), (0.0, 0.9, 0.95, 1.0), (0.0, 0.31, 1.0)])
def test_parts_share_no_line_and_leave_none_out(
    path: Path, chunk: int, shares: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "CHUNK", chunk)
    parts = [Lines(path=path, since=a, until=b) for a, b in pairwise(shares)]
    texts = ["".join(part.chunks()) for part in parts]
    assert "".join(texts) == CONTENT
    assert all(text.endswith("\n") for text in texts)
    sizes = [len(text.encode()) / len(CONTENT.encode()) for text in texts]
    longest = len("two wörds\n".encode()) / len(CONTENT.encode())
    assert all(abs(sizes[i] - (b - a)) < longest for i, (a, b) in enumerate(pairwise(shares)))


def test_parts_of_a_file_have_names_and_stamps_of_their_own(path: Path) -> None:
    parts = [Lines(path=path), Lines(path=path, until=0.9), Lines(path=path, since=0.9)]
    assert len({part.name for part in parts}) == 3
    assert len({part.stamp() for part in parts}) == 3


def test_progress_goes_up_to_the_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "CHUNK", 20)
    told: list[tuple[str, int, int]] = []
    text = "".join(Lines(path=path, since=0.5).chunks("counting", lambda *seen: told.append(seen)))
    size = len(text.encode())
    assert {(what, total) for what, _, total in told} == {("counting text.txt.0.5-1", size)}
    done = [done for _, done, _ in told]
    assert done == sorted(set(done))
    assert done[-1] == size


@small
@pytest.mark.parametrize("bad", [b"\xff", b"\xc3", b"\xed\xa0\x80"])
def test_the_place_of_a_byte_that_is_no_text_is_named(
    path: Path, chunk: int, bad: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "CHUNK", chunk)
    content = CONTENT.encode()
    path.write_bytes(content + b"good " + bad + b" bad\n" + content)
    line, offset = CONTENT.count("\n") + 1, len(content) + 5
    message = (
        rf"text.txt is no text in UTF-8: byte 0x{bad[0]:x} at offset {offset} \(line {line}\)"
    )
    for part in (Lines(path=path), Lines(path=path, since=0.4)):
        with pytest.raises(StoreError, match=message):
            list(part.chunks())


def test_a_file_that_was_cut_is_refused_unless_it_is_accepted(path: Path) -> None:
    path.write_bytes(CONTENT.encode()[:-3])
    for part in (Lines(path=path), Lines(path=path, until=0.5)):
        with pytest.raises(StoreError, match=r"ends in the middle of a line, .* `unfinished`"):
            list(part.chunks())
    accepted = Lines(path=path, unfinished=True)
    assert "".join(accepted.chunks()) == CONTENT[:-3]
    assert accepted.stamp() != Lines(path=path).stamp()


@pytest.mark.parametrize("content", ["", "\n", " \n\t\r\n"])
def test_a_file_without_words_is_refused(path: Path, content: str) -> None:
    path.write_bytes(content.encode())
    with pytest.raises(StoreError, match=r"text.txt holds no words between 0% and 100% of its"):
        list(Lines(path=path).chunks())


def test_a_part_without_words_is_refused(path: Path) -> None:
    path.write_text("all in a single line\n")
    assert list(Lines(path=path, until=0.5).chunks()) == ["all in a single line\n"]
    with pytest.raises(StoreError, match="holds no words between 50% and 100% of its bytes"):
        list(Lines(path=path, since=0.5).chunks())


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"the text .*nothing.txt cannot be read \(No such file"):
        Lines(path=tmp_path / "nothing.txt").stamp()
    with pytest.raises(StoreError, match=r"cannot be read \(Is a directory"):
        list(Lines(path=tmp_path).chunks())


@pytest.mark.parametrize(("since", "until"), [(0.5, 0.5), (-0.1, 1.0), (0.0, 1.1), (0.9, 0.1)])
def test_shares_that_make_no_part_are_refused(path: Path, since: float, until: float) -> None:
    with pytest.raises(ValueError, match=f"0 ≤ since < until ≤ 1; got {since} and {until}"):
        Lines(path=path, since=since, until=until)
