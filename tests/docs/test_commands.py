"""Every command and program in the pages of docs/ that are marked as tested runs as it stands."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from embae_plugin.commands.main import main
from tests.crops_world import picture, write_checkpoint, write_crops
from tests.networks import write_zoo_file

DOCS = Path(__file__).resolve().parents[2] / "docs"
MARK = "<!-- tested -->"
PAGES = sorted(page for page in DOCS.glob("*.md") if MARK in page.read_text(encoding="utf-8"))
FENCE = re.compile(r"^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, content) of each fenced block of bash or python."""
    return FENCE.findall(text)


def commands(block: str) -> list[list[str]]:
    """The words of each command of a bash block; comments and line ends with \\ are the shell's."""
    lines = block.replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [line for line in words if line]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """What the pages speak of: crops of three cameras, a table of them, models, queries."""
    root = tmp_path_factory.mktemp("docs")
    names = [p.relative_to(root).as_posix() for p in write_crops(root / "crops", 3, 3, 2, ".jpg")]
    rows = [f"{name},{name.split('/')[1]},{Path(name).name[:4]}" for name in names]
    (root / "crops.csv").write_text("path,camid,pid\n" + "\n".join(rows) + "\n", encoding="utf-8")
    for folder in ("flat", "queries"):
        (root / folder).mkdir()
    for pid in range(3):
        for camera in range(2):
            picture(pid, camera, 7).save(root / "flat" / f"{pid:04d}_c{camera}s1_00.jpg")
        picture(pid, 0, 8).save(root / "queries" / f"{pid}.jpg")
    picture(1, 1, 9).save(root / "person.jpg")
    write_checkpoint(root / "source.pth")
    write_zoo_file(root / "osnet_x0_25_msmt17.pth")
    write_checkpoint(root / "adapted" / "adapted.pth", 1, ("cam_a", "cam_b", "cam_c"))
    return root


def test_there_are_pages_to_test():
    assert {"adapt_my_cameras.md", "search.md", "use_in_a_tracker.md"} <= {p.name for p in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page(page, world, tmp_path, monkeypatch, capsys, unguarded):
    text = page.read_text(encoding="utf-8")
    root = tmp_path / "w"
    shutil.copytree(world, root)
    if re.search(r"--out adapted(\s|$)", text):
        shutil.rmtree(root / "adapted")
    monkeypatch.chdir(root)
    names: dict[str, object] = {"__name__": "a page"}
    for language, block in blocks(text):
        if language == "python":
            exec(compile(block, str(page), "exec"), names)
            continue
        for command in commands(block):
            assert command[0] == "embae", f"{command}: only embae is run; use another fence"
            assert main(command[1:]) == 0, f"{shlex.join(command)}\n{capsys.readouterr().err}"


def test_commands_are_read_as_a_shell_reads_them():
    block = "embae a \\\n  --x '(?P<c>\\d)'  # why\n\n# nothing\nembae b\n"
    assert commands(block) == [["embae", "a", "--x", "(?P<c>\\d)"], ["embae", "b"]]
    assert blocks("```bash\nembae a\n```\n```\nno\n```\n```python\nx\n```\n") == [
        ("bash", "embae a\n"), ("python", "x\n")
    ]


def test_links_between_pages_lead_somewhere():
    for page in [*DOCS.glob("*.md"), DOCS.parent / "README.md"]:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
