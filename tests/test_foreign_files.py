"""Files of strangers: whatever stands in one, it runs nothing, and what is wrong ends in a line that names it."""

import copy
import json
import random
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

import compress
import compress.models.torchvision  # before its way to fetch weights is replaced
from compress.agents.ddpg import DDPG, DDPGSettings
from compress.agents.preferences import PreferencePolicy, PreferenceSettings
from compress.data.base import Normalisation
from compress.distill.teacher import RunTeacher
from compress.errors import InputError, SettingError
from compress.graph.build import channel_graph
from compress.graph.plan import Plan
from compress.io.files import printable
from compress.io.paths import AGENT, CONF
from compress.methods.amc.agent_file import read_agent
from compress.models.spec import BUILDERS, ModelSpec, spec_from_json
from compress.models.weights import load_strictly, read_checkpoint
from compress.prune.saved_network import save_network
from compress.prune.surgery import cut

SPEC = ModelSpec(
    "compress.models.resnet_cifar.resnet", {"depth": 8, "width": 4, "expansion": 1, "shortcut": "conv"}, (1, 8, 8), 10
)


def parts_of(path: Path) -> tuple[dict[str, Any], bytes]:
    """A safetensors file: its JSON header and its bytes behind."""
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def write_parts(path: Path, header: dict[str, Any], behind: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + behind)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cut network of the zoo, as a run leaves it."""
    folder = tmp_path_factory.mktemp("sound")
    model = SPEC.build()
    graph = channel_graph(model, SPEC.shape)
    plan = Plan({graph[0].name: range(3)})
    normalisation = Normalisation(mean=[0.3], std=[0.4])
    save_network(folder / "model.safetensors", cut(model, graph, plan), SPEC, plan, normalisation)
    compress.load(folder)
    return folder / "model.safetensors"


# -- a generator of headers ------------------------------------------------------------------------------------

DEEP: Any = 1
for _ in range(100):
    DEEP = [DEEP]
ODD = (
    None, True, False, 0, -1, 1, 7, 60_000_002, 10**12, 10**300, -0.5, 1e308, float("nan"), float("inf"), "", "a",
    "..", "\x1b[31m", "ä" * 5000, "null", [], [[]], [None], {}, {"_target_": "os.system", "command": "touch ran"},
    DEEP,
)  # fmt: skip
TARGETS = (
    "os.system", "evil.sub", "compress.models.onnx.find_spec", "compress.models.spec.ModelSpec", "compress.models.",
    "compress.models.vgg", "compress.models.vgg.VGG", "compress.models.torchvision.models.resnet18",
    "compress.models.layers.EmptyConv", "compress.cli.main", "builtins.exec", "compress.models.vgg.vgg\n", *BUILDERS,
)  # fmt: skip


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return found + [place for key, value in items for place in places(value, (*path, key))]


def replaced(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    tree = copy.deepcopy(tree)
    node = tree
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return tree


def crafted(header: dict[str, Any], draw: random.Random) -> Any:
    """Another header of a network: one to three parts of it replaced, left out or added."""
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        if not isinstance(header, dict) or not header:
            break
        kind, path = draw.randrange(7), draw.choice(places(header))
        if kind == 0:
            header = replaced(header, ("model",), {**SPEC.to_json(), "target": draw.choice(TARGETS)})
        elif kind == 1:
            args = {
                **SPEC.args,
                draw.choice((*SPEC.args, "weights", "download", "arch", "gene", "cfg", "_target_")): 0,
            }
            args[draw.choice(list(args))] = draw.choice(ODD)
            header = replaced(header, ("model",), {**SPEC.to_json(), "args": args})
        elif kind == 2:
            plan = {
                draw.choice(("conv1", "layer1.0.conv1", "no", "")): draw.choice(([0, 1], [1, 0], [-1], [99], *ODD))
            }
            header = replaced(header, ("plan",), plan)
        elif kind == 3:
            header = replaced(header, ("masks",), draw.choice((["conv1"], ["conv1", "conv1"], ["bn1"], [""], *ODD)))
        elif kind == 4:
            node = header
            for key in path[:-1]:
                node = node[key]
            if isinstance(node, dict) and path[-1] in node:
                header = copy.deepcopy(header)
                node = header
                for key in path[:-1]:
                    node = node[key]
                del node[path[-1]]
        else:
            header = replaced(header, path, draw.choice(ODD))
    return header


def crafted_tensors(file: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """Another table of tensors: shapes, kinds, places and names changed."""
    names = [name for name in file if name != "__metadata__"]
    name = draw.choice(names)
    entry = dict(file[name])
    change = draw.randrange(5)
    if change == 0:
        entry["shape"] = draw.choice(([], [0], [10**9, 10**9], [-1], [2.5], entry["shape"][::-1], "x"))
    elif change == 1:
        entry["dtype"] = draw.choice(("I64", "BOOL", "F64", "F8_E4M3", "F8_E5M2", "BF16", "U8", "C64", "X", 7))
    elif change == 2:
        entry["data_offsets"] = draw.choice(([0, 0], [0, 10**12], [-4, 4], [8, 4], [], None))
    elif change == 3:
        return {**{key: value for key, value in file.items() if key != name}, draw.choice(("", "x" * 5000)): entry}
    else:
        return {key: value for key, value in file.items() if key != name}
    return {**file, name: entry}


def attempt(base: Path, sound: Path, number: int, read: Callable[[Path], Any]) -> str:
    """Read one crafted file; what happened. Anything but a network or a line that names the file is raised."""
    draw = random.Random(number)
    file, behind = parts_of(sound)
    header = json.loads(file["__metadata__"]["compress"])
    path = base / f"{number}.safetensors"
    if draw.random() < 0.2:
        file = crafted_tensors(file, draw)
    elif draw.random() < 0.1:
        file["__metadata__"]["compress"] = draw.choice(
            ("", "{", "[" * 100_000, "9" * 5000, "nul", "{}", "[1]", '"x"')
        )
    else:
        del header["digest"]  # whoever writes a file writes the digest that fits; here none is as good
        file["__metadata__"]["compress"] = json.dumps(crafted(header, draw))
    write_parts(path, file, behind)
    told = refusal(read, path)
    path.unlink()
    for line in told:
        assert str(path) in line
        assert line == printable(line)
        assert len(line) < 2000
    return "refused" if told else "read"


def refusal(read: Callable[[Path], Any], path: Path) -> tuple[str, ...]:
    """What reading the file is refused with; nothing if it is read."""
    try:
        read(path)
    except InputError as error:
        return error.problems
    return ()


def nothing_runs(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """A folder with a module that tells when it is imported, and a network that tells when it is asked."""
    (folder / "evil").mkdir()
    (folder / "evil" / "__init__.py").write_text("open('ran', 'w').close()\n")
    (folder / "evil" / "sub.py").write_text("")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.chdir(folder)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a file made this download")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("urllib.request.urlopen", refuse)


@pytest.mark.parametrize("numbers", [range(120), pytest.param(range(120, 2000), marks=pytest.mark.slow)])
def test_whatever_a_network_file_says_it_is_refused_in_a_line_that_names_it(
    numbers: range, sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing_runs(monkeypatch, tmp_path)
    found = [attempt(tmp_path, sound, number, compress.load) for number in numbers]
    assert found.count("refused") > 0.6 * len(numbers)
    assert "evil" not in sys.modules
    assert not (tmp_path / "ran").exists()


def test_the_same_of_a_teacher(sound: Path, tmp_path: Path) -> None:
    def teach(path: Path) -> None:
        folder = tmp_path / path.name.split(".")[0]
        folder.mkdir()
        path.rename(folder / "model.safetensors")
        try:
            RunTeacher(str(folder)).check(10, (1, 8, 8))
        except InputError as error:
            raise InputError(*(line.replace(str(folder), str(path)) for line in error.problems)) from None
        finally:
            path.touch()

    found = [attempt(tmp_path, sound, number, teach) for number in range(60)]
    assert "refused" in found


def test_a_file_may_name_the_builders_of_the_zoo_and_nothing_else() -> None:
    shipped = {str(OmegaConf.load(path).get("_target_")) for path in (CONF / "model").glob("*.yaml")} - {"None"}
    assert shipped == set(BUILDERS)
    for target in set(TARGETS) - set(BUILDERS):
        with pytest.raises(InputError, match=r"only functions of compress\.models\.\* are called for a file"):
            spec_from_json({**SPEC.to_json(), "target": target})
    for args, told in (
        ({**SPEC.args, "depth": 60_000_002}, r"args\.depth=60000002: must be <= 2,000"),
        ({**SPEC.args, "width": 10**12}, r"args\.width=1000000000000: must be <= 65,536"),
        ({**SPEC.args, "name": "x"}, r"unknown key args\.name"),
        ({**SPEC.args, "num_classes": 3}, r"unknown key args\.num_classes"),
    ):
        with pytest.raises(InputError, match=told):
            spec_from_json({**SPEC.to_json(), "args": args})


def test_no_network_is_larger_than_any_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told from names and shapes alone."""
    with pytest.raises(InputError, match=r"has [\d,]+ parameters; must be <= 1,000,000,000"):
        ModelSpec(SPEC.target, {**SPEC.args, "depth": 1202, "width": 65_536}, (3, 32, 32), 10)._check_size()
    monkeypatch.setattr("compress.models.spec.MOST_PARAMETERS", 1000)
    with pytest.raises(InputError, match="has 5,094 parameters; must be <= 1,000"):
        SPEC.build()


def test_no_file_makes_loading_fetch_weights() -> None:
    args = {"arch": "resnet18", "weights": "DEFAULT", "download": True}
    read = spec_from_json(
        {"target": "compress.models.torchvision.classifier", "args": args, "shape": [3, 32, 32], "classes": 1000}
    )
    assert read.args == {"arch": "resnet18", "weights": None, "download": False}


def test_a_flipped_bit_is_told(sound: Path, tmp_path: Path) -> None:
    """Wherever it is: in the numbers, in a name or a shape, in what rebuilds the network."""
    content = sound.read_bytes()
    draw = random.Random(0)
    size = struct.unpack("<Q", content[:8])[0]
    places = [draw.randrange(8 + size) for _ in range(40)] + [
        draw.randrange(8 + size, len(content)) for _ in range(20)
    ]
    expected = compress.load(sound).state_dict()
    for place in places:
        path = tmp_path / "flipped.safetensors"
        path.write_bytes(content[:place] + bytes([content[place] ^ (1 << draw.randrange(8))]) + content[place + 1 :])
        if place >= 8 + size:  # as a checkpoint too
            assert refusal(read_checkpoint, path)
        if not refusal(compress.load, path):  # between the words of the JSON a flip may change nothing
            assert place < 8 + size
            got = compress.load(path).state_dict()
            assert all(torch.equal(got[name], expected[name]) for name in expected)


# -- agents ----------------------------------------------------------------------------------------------------

DDPG_SETTINGS = DDPGSettings(
    hidden=4, actor_lr=1e-3, critic_lr=1e-3, discount=1.0, tau=0.01, batch_size=4, baseline_rate=0.1
)  # fmt: skip


def agent_content() -> dict[str, Any]:
    agent = DDPG(3, 1, DDPG_SETTINGS, 0).state_dict()
    best = {0.5: {"widths": [1, 2], "ratio": 0.5, "reward": 0.1}}
    return {"agent": agent, "best": best, "network": [["a", 2], ["b", 3]], "made_with": {"ddpg.hidden": 4}}


@pytest.mark.parametrize("numbers", [range(80), pytest.param(range(80, 500), marks=pytest.mark.slow)])
def test_whatever_an_agent_file_holds_it_is_refused_in_a_line_that_names_it(numbers: range, tmp_path: Path) -> None:
    def read() -> None:
        read_agent(str(tmp_path), {"ddpg.hidden": 4}, DDPG_SETTINGS)

    torch.save(agent_content(), tmp_path / AGENT)
    read()
    for wrong in ({"network": "abc"}, {"network": [5]}, {"best": [1]}, {"best": {0.5: 3}}, {"digest": "of another"}):
        torch.save({**agent_content(), **wrong}, tmp_path / AGENT)
        with pytest.raises(InputError, match="holds no whole agent"):
            read()
    nan, none, small = torch.full((4, 3), torch.nan), torch.zeros(0), torch.zeros(2, 2)
    odd = (None, {}, [], 0.0, float("nan"), "", nan, none, small, expanded())
    needed = ("agent", "best", "network", "made_with")
    for number in numbers:
        draw, content = random.Random(number), agent_content()
        path = draw.choice([p for p in places(content) if p[0] in needed and p[-1] not in ("baselines", "ratio")])
        if path[0] == "agent" and (len(path) == 1 or "optimizer" not in path[1]):
            content = replaced(content, path, draw.choice(odd))
        else:
            content = replaced(content, path[:1], draw.choice(odd[:3]))
        torch.save(content, tmp_path / AGENT)
        with pytest.raises(InputError, match=rf"^agent={tmp_path}: ") as told:
            read()
        assert len(told.value.problems) == 1


PREFERENCES = PreferenceSettings(hidden=4, lr=1e-3, steps=1, bound=1.5)


def preferring_content() -> dict[str, Any]:
    """An agent of the rule `projected`, of two groups."""
    policy = PreferencePolicy(np.zeros((2, 7)), PREFERENCES, 0).state_dict()
    scored = {"widths": torch.tensor([[1, 2], [2, 3]]), "accuracies": torch.tensor([50.0, 60.0])}
    return {
        **{part: agent_content()[part] for part in ("best", "network")},
        "agent": {"network": policy["network"]},
        "scored": scored,
        "made_with": {"agent_rule": "projected", "policy.hidden": 4},
    }


@pytest.mark.parametrize("numbers", [range(60), pytest.param(range(60, 400), marks=pytest.mark.slow)])
def test_an_agent_of_preferences_is_refused_in_a_line_too(numbers: range, tmp_path: Path) -> None:
    def read() -> None:
        read_agent(str(tmp_path), {"agent_rule": "projected", "policy.hidden": 4}, PREFERENCES)

    torch.save(preferring_content(), tmp_path / AGENT)
    read()
    odd_widths = ([[1, 2, 1], [2, 3, 1]], [[0, 2], [2, 3]], [[1, 2], [2, 4]], [[1, 2]], [[1.0, 2.0], [2.0, 3.0]])
    wrong: list[dict[str, Any]] = [
        {"scored": {**preferring_content()["scored"], "widths": torch.tensor(widths)}} for widths in odd_widths
    ]
    for accuracies in ([50.0], [50.0, 101.0], [-1.0, 50.0], [[50.0], [60.0]], [float("nan"), 50.0]):
        wrong.append({"scored": {**preferring_content()["scored"], "accuracies": torch.tensor(accuracies)}})
    wrong += [{"best": {0.5: {"widths": widths}}} for widths in ([1], [0, 1], [1, 9], ["a", "b"], [1.5, 2])]
    for changes in [*wrong, {"agent": {}}, {"scored": None}, {"digest": "of another"}]:
        torch.save({**preferring_content(), **changes}, tmp_path / AGENT)
        with pytest.raises(InputError, match="holds no whole agent"):
            read()
    odd = (None, {}, [], 0.0, float("nan"), "", torch.full((4, 3), torch.nan), torch.zeros(0), expanded())
    for number in numbers:
        draw, content = random.Random(number), preferring_content()
        path = draw.choice([p for p in places(content) if p[0] in ("agent", "scored")])
        torch.save(replaced(content, path, draw.choice(odd)), tmp_path / AGENT)
        with pytest.raises(InputError, match=rf"^agent={tmp_path}: ") as told:
            read()
        assert len(told.value.problems) == 1


# -- checkpoints -----------------------------------------------------------------------------------------------


def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return SPEC.build().state_dict()


def expanded() -> Tensor:
    return torch.zeros(1).expand(10**12)


NO_WEIGHTS: dict[str, Callable[[dict[Any, Any]], dict[Any, Any]]] = {
    "integers": lambda s: {**s, "conv1.weight": torch.ones(4, 1, 3, 3, dtype=torch.int64)},
    "bools": lambda s: {**s, "conv1.weight": torch.ones(4, 1, 3, 3, dtype=torch.bool)},
    "complex": lambda s: {**s, "conv1.weight": torch.ones(4, 1, 3, 3, dtype=torch.complex64)},
    "sparse": lambda s: {**s, "linear.weight": s["linear.weight"].to_sparse()},
    "float8": lambda s: {**s, "conv1.weight": torch.ones(4, 1, 3, 3).to(torch.float8_e4m3fn)},
    "meta": lambda s: {**s, "conv1.weight": torch.ones(4, 1, 3, 3, device="meta")},
    "no numbers": lambda s: {**s, "conv1.weight": torch.full((4, 1, 3, 3), torch.nan)},
    "variances": lambda s: {**s, "bn1.running_var": -torch.ones(4)},
    "a float count": lambda s: {**s, "bn1.num_batches_tracked": torch.tensor(0.5)},
    "a number as name": lambda s: {**s, 7: torch.ones(1)},
    "a long name": lambda s: {**s, "x" * 5000: torch.ones(1)},
    "a name that steers": lambda s: {**s, "\x1b[2J": torch.ones(1)},
    "one number as many": lambda s: {**s, "linear.bias": expanded()},
    "numbers that overflow": lambda s: {**s, "linear.bias": torch.full((10,), 1e300, dtype=torch.float64)},
    "nested": lambda s: {**s, "linear.bias": torch.nested.nested_tensor([torch.zeros(2)], layout=torch.jagged)},
    "a count below 0": lambda s: {**s, "bn1.num_batches_tracked": torch.tensor(-5)},
    "a list": lambda s: {**s, "linear.bias": [1.0]},
    "nothing": lambda s: {},
}


@pytest.mark.parametrize("kind", NO_WEIGHTS)
def test_what_is_no_weights_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save(NO_WEIGHTS[kind](state()), path)
    with pytest.raises(InputError) as told:
        load_strictly(SPEC.build(), read_checkpoint(path), f"checkpoint={path}")
    (line,) = told.value.problems
    assert line.startswith(f"checkpoint={path}: ")
    assert line == printable(line)
    assert len(line) < 600 + len(str(path))


def test_half_precision_is_weights(tmp_path: Path) -> None:
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state().items()}
    model = SPEC.build()
    load_strictly(model, half, "half")
    assert model.conv1.weight.dtype == torch.float32


def under(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in weights.items()}


@pytest.mark.parametrize(
    "form",
    [
        lambda s: {"state_dict": under("module.", s), "best_prec1": 91.7},
        lambda s: under("_orig_mod.", s),
        lambda s: {"state_dict": under("_orig_mod.module.", s)},
        lambda s: {"state_dict": under("module._orig_mod.", s)},
        lambda s: {"state_dict": under("model.", s), "epoch": 3},
        lambda s: {"state_dict": under("module._orig_mod.model.", s), "epoch": 3},
        lambda s: {"model": {"state_dict": s}},
        lambda s: {"module": s, "global_steps": 3},
        lambda s: {"model_state_dict": s, "optimizer_state_dict": {}, "epoch": 3},
        lambda s: {**s, "total_ops": torch.zeros(1), "conv1.total_params": torch.zeros(1)},
        lambda s: {**under("module.", s), "n_averaged": torch.tensor(5)},
        lambda s: under("module.", {**s, "total_ops": torch.zeros(1), "layer1.0.total_ops": torch.zeros(1)}),
        lambda s: {"state_dict": {**under("model.", s), "criterion.weight": torch.ones(10)}},
        lambda s: {
            "state_dict": {**under("model._orig_mod.", s), "model.ema": torch.ones(1), "loss.w": torch.ones(1)}
        },
    ],
)
def test_the_forms_that_people_have_are_read(form: Callable[..., Any], tmp_path: Path) -> None:
    torch.save(form(state()), tmp_path / "net.pth")
    model = SPEC.build()
    load_strictly(model, read_checkpoint(tmp_path / "net.pth"), "it")
    assert all(torch.equal(tensor, state()[name]) for name, tensor in model.state_dict().items())


class Both(torch.nn.Module):
    """Names with and without the prefix."""

    def __init__(self) -> None:
        super().__init__()
        self.module, self.weight = torch.nn.Linear(3, 2), torch.nn.Parameter(torch.zeros(2))


def test_a_network_whose_own_attribute_is_called_module_loads_its_own_file(tmp_path: Path) -> None:
    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module, self.total_ops = torch.nn.Linear(3, 2), torch.nn.Parameter(torch.zeros(2))

    only = torch.nn.Sequential(OrderedDict(module=torch.nn.Linear(3, 2)))
    load_strictly(only, only.state_dict(), "it")
    theirs, ours = Wrapped(), Wrapped()
    both = Both()
    load_strictly(both, under("module.", both.state_dict()), "it")
    for content in (theirs.state_dict(), under("module.", theirs.state_dict())):
        torch.save(content, tmp_path / "own.pth")
        load_strictly(ours, read_checkpoint(tmp_path / "own.pth"), "it")
        assert torch.equal(ours.module.weight, theirs.module.weight)


def test_what_stands_beside_half_a_network_stays_unknown() -> None:
    half = under("model.", {name: tensor for name, tensor in state().items() if name != "conv1.weight"})
    with pytest.raises(InputError, match=r"unknown: .*criterion\.weight|unknown: .* more"):
        load_strictly(SPEC.build(), {**half, "criterion.weight": torch.ones(10)}, "it")
    with pytest.raises(InputError, match=r"unknown: extra\.weight\)"):
        load_strictly(SPEC.build(), {**state(), "extra.weight": torch.ones(1)}, "it")


def test_a_checkpoint_of_option_a_hints_at_the_setting(tmp_path: Path) -> None:
    other = ModelSpec(SPEC.target, {**SPEC.args, "shortcut": "pad"}, SPEC.shape, SPEC.classes)
    torch.save(under("module.", other.build().state_dict()), tmp_path / "a.th")
    asked = ModelSpec(SPEC.target, SPEC.args, SPEC.shape, SPEC.classes, str(tmp_path / "a.th"))
    with pytest.raises(SettingError, match=r"does not fit .*; it fits with shortcut=pad$") as told:
        asked.load_checkpoint(asked.build())
    assert str(told.value.under("model")).endswith("; it fits with model.shortcut=pad")


def test_an_archive_that_swells_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pth"
    torch.save({"w": torch.zeros(10**6)}, path)
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(tmp_path / "small.pth", "w", zipfile.ZIP_DEFLATED) as small:
        for member in whole.infolist():
            small.writestr(member.filename, whole.read(member))
    with pytest.raises(InputError, match=r"small\.pth: is a compressed archive"):
        read_checkpoint(tmp_path / "small.pth")


def test_what_steers_a_terminal_is_written_out() -> None:
    assert printable("a\x1b[31mb\nc\u202ed ä") == "a\\x1b[31mb\\nc\\u202ed ä"
