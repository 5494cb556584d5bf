"""What is taken of Hydra beyond its documented interface, against whatever Hydra is importable.

For another Hydra than the installed one: `pip install --target DIR --pre hydra-core==1.4.0rc3`, then
`PYTHONPATH=DIR pytest tests/test_hydra_private.py`. No test here loads torch.
"""

import ast
import subprocess
import sys
from pathlib import Path

import hydra
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

import compress
from compress.config.compose import plain
from compress.config.hydra_private import grid, option_names, options
from compress.config.resolvers import register_resolvers
from compress.config.sweep import boundary_jobs, grid_jobs, is_grid
from compress.io.paths import CONF

ROOT = Path(compress.__file__).parent
pytestmark = pytest.mark.filterwarnings("ignore:The version_base parameter")  # 1.4 speaks of 1.5


def test_options_are_read_and_refused() -> None:
    given = options(["-m", "--config-dir", "mine", "seed=0,1"])
    assert (given.multirun, given.config_dir, given.overrides) == (True, "mine", ["seed=0,1"])
    assert (given.cfg, given.package, given.config_name) == (None, None, None)
    with pytest.raises(ValueError, match="nothing-like-it"):
        options(["--nothing-like-it"])
    assert {"-m", "--multirun", "--cfg", "--package", "--help"} <= option_names()


def test_the_grid_is_every_combination() -> None:
    parsed = OverridesParser.create().parse_overrides(["a=1,2", "b=x", "c=range(0,2)"])
    assert grid(parsed) == [[f"a={a}", "b=x", f"c={c}"] for a in (1, 2) for c in (0, 1)]
    assert grid_jobs([]) == [[]]


def test_the_ends_of_a_search_are_the_fewest_lines_that_have_them_all() -> None:
    lines = boundary_jobs(["a=interval(1,2)", "b=3,4,5", "+c=range(0,9)", "d=x"])
    assert lines == [
        ["a=1.0", "b=3", "+c=0", "d=x"], ["a=2.0", "b=4", "+c=8", "d=x"], ["a=2.0", "b=5", "+c=8", "d=x"]
    ]  # fmt: skip
    assert boundary_jobs(["a=range(3,3)"]) == []


def test_the_sweeper_of_the_config_is_known_as_hydras_own() -> None:
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", ["seed=3", "preserve_ratio=0.5"], return_hydra_config=True)
    assert is_grid(config.hydra)
    mine = plain(config)
    assert "hydra" not in mine
    assert (mine["seed"], mine["preserve_ratio"], mine["stages"][0]) == (3, 0.5, "pretrain")


def test_a_command_line_is_checked_before_anything_runs(tmp_path: Path) -> None:
    """The whole way: Hydra composes, calls back what `hydra.callbacks` names, and that refuses."""
    for line, told in (
        (["preserve_ration=0.5"], "compress: unknown key preserve_ration; did you mean preserve_ratio?\n"),
        (["-m", "method=cam,amc"], "method=cam: unknown choice"),
    ):
        done = subprocess.run([sys.executable, "-m", "compress", *line], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 2, done.stderr
        assert told in done.stderr, hydra.__version__
        assert not list(tmp_path.iterdir())


def test_private_parts_of_hydra_are_imported_in_one_file() -> None:
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found += [path.name for name in names if name.startswith(("hydra._", "omegaconf._"))]
            if isinstance(node, ast.Attribute) and node.attr in ("_get_node", "_metadata", "_content"):
                found.append(f"{path.name}:{node.lineno}")
    assert set(found) == {"hydra_private.py"}
