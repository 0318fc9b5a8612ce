"""The files that people name, in folders as people have them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from geoloc.core import local_listing, storage
from geoloc.core.errors import ArtifactError
from geoloc.core.file_selection import select


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place, once on disk and once on S3."""
    return str(tmp_path / "place") if request.param == "local" else request.getfixturevalue("s3_uri")


def write(place: str, *names: str) -> None:
    for name in names:
        storage.write_bytes(storage.join(place, name), b"x")


def names(place: str, pattern: str, *suffixes: str) -> list[str]:
    chosen = select(storage.join(place, pattern) if pattern else place, suffixes)
    return [file.uri.removeprefix(place).lstrip("/") for file in chosen.files]


def test_a_file_a_folder_and_globs_as_the_shell_has_them(place: str) -> None:
    write(place, "b.tif", "a.TIF", "sub/c.tif", "sub/deep/d.tif", "notes.txt", ".hidden.tif", ".git/e.tif")
    assert names(place, "b.tif", ".jpg") == ["b.tif"]
    assert names(place, "", ".tif") == ["a.TIF", "b.tif", "sub/c.tif", "sub/deep/d.tif"]
    for pattern, found in {
        "*.tif": ["b.tif"],
        "*/*.tif": ["sub/c.tif"],
        "**/*.tif": ["b.tif", "sub/c.tif", "sub/deep/d.tif"],
        "sub/**": ["sub/c.tif", "sub/deep/d.tif"],
        "**/deep/*": ["sub/deep/d.tif"],
        "s?b/?.tif": ["sub/c.tif"],
        "[ab].*": ["a.TIF", "b.tif"],
        "[!a].tif": ["b.tif"],
        "[^b-z].*": ["a.TIF"],
        ".*.tif": [".hidden.tif"],
        ".git/*": [".git/e.tif"],
        "s*/deep/d.tif": ["sub/deep/d.tif"],
        "*.{tif,TIF}": ["a.TIF", "b.tif"],
        "{b,sub/c}.tif": ["b.tif", "sub/c.tif"],
        "sub/{deep/{d,x},c}.tif": ["sub/c.tif", "sub/deep/d.tif"],
        "{b.tif,su[b]/*}": ["b.tif", "sub/c.tif"],
    }.items():
        assert names(place, pattern) == found, pattern


def test_what_matches_nothing_is_named_with_what_was_there(place: str) -> None:
    write(place, "b.tif", "c.tif", "d.jp2", ".e.jpg")
    with pytest.raises(ArtifactError, match=r"absent' does not exist; give a file, a directory or a glob"):
        select(storage.join(place, "absent"))
    with pytest.raises(ArtifactError, match=r"\*\.jpg' matches no file; check the path"):
        select(storage.join(place, "*.jpg"))
    with pytest.raises(ArtifactError, match=r"\{x,y\}\.tif' matches no file; check the path"):
        select(storage.join(place, "{x,y}.tif"), (".tif",))
    with pytest.raises(ArtifactError, match=r"write \[\[\] for a bracket"):
        select(storage.join(place, "[x].tif"))
    sentence = (
        r"matches no file with one of the endings \.jpg; 4 files or links are left out: 1 hidden \(a name that begins "
        r"with a dot\); 3 of other kinds \(\.tif 2, \.jp2 1\); check the path"
    )
    with pytest.raises(ArtifactError, match=sentence):
        select(place, (".jpg",))


def test_files_beside_others_are_not_counted(place: str) -> None:
    write(place, "a.tif", "a.tfw", "a.tif.aux.xml", "._a.tif", "readme")
    chosen = select(place, (".tif",), beside=(".tfw", ".aux.xml"))
    assert [file.name for file in chosen.files] == ["a.tif"]
    assert chosen.left_out_words() == (
        "2 files or links are left out: 1 hidden (a name that begins with a dot); "
        "1 of other kinds (without an ending 1)"
    )


@pytest.mark.parametrize("folder", ["sheets [2024]", "a*b", "what?", "map:1", "x#y", "50%20", "[a]/[b]"])
def test_a_path_that_exists_is_that_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    home = tmp_path / folder
    home.mkdir(parents=True)
    (home / "[1].tif").write_bytes(b"x")
    assert [file.name for file in select(str(home / "[1].tif")).files] == ["[1].tif"]
    assert [file.name for file in select(str(home), (".tif",)).files] == ["[1].tif"]
    monkeypatch.chdir(home)
    assert [file.uri for file in select("[1].tif").files] == [str(home / "[1].tif")]
    if "*" not in folder and "?" not in folder:
        assert [file.name for file in select("*.tif").files] == ["[1].tif"]
        assert [file.name for file in select(str(home / "*.tif")).files] == ["[1].tif"]
    monkeypatch.chdir(home.parent)
    assert [file.uri for file in select(home.name, (".tif",)).files] == [str(home / "[1].tif")]


def test_links_and_odd_names_are_followed_once_or_counted(tmp_path: Path) -> None:
    (tmp_path / "z").mkdir()
    (tmp_path / "z" / "a.tif").write_bytes(b"x")
    (tmp_path / "z" / "loop").symlink_to(tmp_path / "z")
    (tmp_path / "again").symlink_to(tmp_path / "z")
    (tmp_path / "gone.tif").symlink_to(tmp_path / "nothing.tif")
    (tmp_path / "self.tif").symlink_to(tmp_path / "self.tif")
    (tmp_path / "file.tif").symlink_to(tmp_path / "z" / "a.tif")
    os.mkfifo(tmp_path / "pipe.tif")
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.tif"))).write_bytes(b"x")
    chosen = select(str(tmp_path), (".tif",))
    assert [file.uri for file in chosen.files] == [
        str(tmp_path / "file.tif"),
        str(tmp_path / "z" / "a.tif"),
    ]
    assert dict(chosen.left_out) == {
        local_listing.DANGLING: 2,
        local_listing.SEEN_BEFORE: 2,
        local_listing.NOT_A_FILE: 1,
        local_listing.NOT_UTF8: 1,
    }
    assert "2 links that lead nowhere" in chosen.left_out_words()
    outside = tmp_path / "links"
    outside.mkdir()
    (outside / "in").symlink_to(tmp_path / "z")
    assert [file.uri for file in select(str(outside), (".tif",)).files] == [str(outside / "in" / "a.tif")]
    assert [file.name for file in storage.list_files(str(tmp_path / "z"))] == ["a.tif"]
