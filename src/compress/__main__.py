"""The command: `python -m compress`, and the script `compress`.

Hydra has no sub-commands, so `compare`, `ls`, `clean`, `plan`, `help` and `--version` are handled here; but `plan`,
none of them waits for Hydra or torch.
"""

import sys
from collections.abc import Callable, Sequence


def main() -> None:
    if sys.argv[1:2] == ["help"]:
        sys.argv[1:] = [*sys.argv[2:3], "--help"]
    if (command := _command(*sys.argv[1:2])) is not None:
        raise SystemExit(command(sys.argv[2:]))
    if "--version" in sys.argv[1:]:  # Hydra's --version would print the version of Hydra
        print(versions())
        return
    from compress.cli import main as run

    run()


def _command(word: str = "") -> Callable[[Sequence[str]], int] | None:
    """The command of this name that is no run; None: there is none."""
    if word == "compare":
        from compress.report.compare import main as compare

        return compare
    if word == "ls":
        from compress.storage.ls import main as ls

        return ls
    if word == "clean":
        from compress.storage.clean import main as clean

        return clean
    if word == "plan":
        from compress.preview.command import main as plan

        return plan
    return None


def versions() -> str:
    """The versions of compress, torch, torchvision, Hydra and Python, read without importing the packages."""
    from importlib.metadata import PackageNotFoundError, version

    def of(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "not installed"

    others = ", ".join(f"{name} {of(name)}" for name in ("torch", "torchvision", "hydra-core"))
    python = ".".join(map(str, sys.version_info[:3]))
    return f"compress {of('compress-lab')} ({others}, Python {python})"


if __name__ == "__main__":
    main()
