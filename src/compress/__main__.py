"""The command: `python -m compress`, and the script `compress`.

Hydra composes a run and knows no sub-commands; `compare` reads what runs left, and must not wait for Hydra or torch.
"""

import sys


def main() -> None:
    if sys.argv[1:2] == ["compare"]:
        from compress.report.compare import main as compare

        raise SystemExit(compare(sys.argv[2:]))
    from compress.cli import main as run

    run()


if __name__ == "__main__":
    main()
