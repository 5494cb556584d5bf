"""The command: `python -m compress`, and the script `compress`.

Hydra has no sub-commands, so `compare`, `help` and `--version` are handled here, without waiting for Hydra or torch.
"""

import sys


def main() -> None:
    if sys.argv[1:2] == ["compare"]:
        from compress.report.compare import main as compare

        raise SystemExit(compare(sys.argv[2:]))
    if "--version" in sys.argv[1:]:  # Hydra's --version would print the version of Hydra
        print(versions())
        return
    if sys.argv[1:] == ["help"]:
        sys.argv[1:] = ["--help"]
    from compress.cli import main as run

    run()


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
