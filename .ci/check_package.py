"""Checks that a built wheel and sdist hold all files of the package, and nothing beside it.

python .ci/check_package.py dist
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent


def tracked() -> list[str]:
    """Every file that git knows here."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=HERE, capture_output=True, check=True)
    return [name for name in listed.stdout.decode().split("\0") if name]


def only(folder: str, pattern: str) -> Path:
    """The one file of that kind in the folder."""
    found = sorted(Path(folder).glob(pattern))
    if len(found) != 1:
        raise SystemExit(f"{folder} holds {len(found)} files {pattern}, not one")
    return found[0]


def main(folder: str) -> None:
    """Raises SystemExit naming what is missing or too much."""
    files = tracked()
    package = {name for name in files if name.startswith("embae_plugin/")}
    package |= {f"embae_plugin/{name}" for name in files if name.startswith("configs/")}
    with zipfile.ZipFile(only(folder, "*.whl")) as wheel:
        inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    # Git's own files and CI's stay out of a source distribution.
    source = {name for name in files if not name.startswith((".ci/", ".git"))}
    with tarfile.open(only(folder, "*.tar.gz")) as sdist:
        packed = {name.partition("/")[2] for name in sdist.getnames()}
    problems = [f"the wheel lacks {name}" for name in sorted(package - inside)]
    problems += [f"the wheel holds {name}" for name in sorted(inside - package)]
    problems += [f"the sdist lacks {name}" for name in sorted(source - packed)]
    if problems:
        raise SystemExit("\n".join(problems))
    print(f"the wheel holds {len(inside)} files, the sdist {len(source)}: all there")


if __name__ == "__main__":
    main(sys.argv[1])
