"""Every operator with a formula by hand and beside torch's own counter; every other one is free or named."""

import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
import torchvision
from conftest import zoo
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models
from torchvision.models import regnet

from compress.config.zoo import zoo_names
from compress.errors import InputError
from compress.measure.mac_formulas import MAC_FORMULAS
from compress.measure.macs import count_macs, count_operators, describe_uncounted
from compress.measure.zero_mac_operators import ZERO_MAC_OPERATORS

SHAPE = (3, 8, 8)  # as tokens: 64 of 3


class Net(nn.Module):
    """`run` of an image (B, 3, 8, 8) and of layers."""

    def __init__(self, run: Callable[..., Any], *layers: nn.Module) -> None:
        super().__init__()
        self.run, self.layers = run, nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Any:
        return self.run(x, *self.layers)


def tokens(x: Tensor) -> Tensor:
    """(B, 64, 3)"""
    return x.flatten(2).transpose(1, 2)


def rows(x: Tensor) -> Tensor:
    """(64, 3)"""
    return tokens(x)[0]


def of(*sizes: int) -> Tensor:
    return torch.ones(*sizes)


def on_tokens(layer: nn.Module, **options: Any) -> Net:
    return Net(lambda x, layer: layer(tokens(x), **options), layer)


def on_images(layer: nn.Module) -> Net:
    return Net(lambda x, layer: layer(x), layer)


def attend(x: Tensor, **options: Any) -> Tensor:
    """Four heads of 6 queries over 7 places: 3 numbers for the scores, 5 to mix."""
    heads = 2 if options.get("enable_gqa") else 4
    return F.scaled_dot_product_attention(
        x.mean() + of(1, 4, 6, 3), of(1, heads, 7, 3), of(1, heads, 7, 5), **options
    )


Case = tuple[Net, int]
# What torch's counter sees too, with the multiply-adds by hand.
COUNTED_BY_BOTH: dict[str, Case] = {
    "linear": (on_tokens(nn.Linear(3, 5)), 64 * 3 * 5),
    "linear of a vector": (Net(lambda x, a: a(x.flatten()), nn.Linear(192, 5)), 192 * 5),
    "conv1d": (Net(lambda x, a: a(x.flatten(2)), nn.Conv1d(3, 5, 3)), 62 * 3 * 5 * 3),
    "conv1d of one": (Net(lambda x, a: a(x.flatten(2)[0]), nn.Conv1d(3, 5, 3, padding="same")), 64 * 3 * 5 * 3),
    "conv2d in groups": (on_images(nn.Conv2d(3, 6, 3, 2, 1, groups=3)), 16 * 6 * 9),
    "conv2d dilated": (on_images(nn.Conv2d(3, 6, 3, dilation=2)), 16 * 3 * 6 * 9),
    "conv3d": (Net(lambda x, a: a(x[:, None]), nn.Conv3d(1, 5, 3, padding=1)), 192 * 5 * 27),
    "transposed 1d": (Net(lambda x, a: a(x.flatten(2)), nn.ConvTranspose1d(3, 5, 3, 2)), 64 * 3 * 5 * 3),
    "transposed 2d": (on_images(nn.ConvTranspose2d(3, 6, 3, 2, 1, 1, groups=3)), 64 * 3 * 2 * 9),
    "transposed 3d": (Net(lambda x, a: a(x[:, None]), nn.ConvTranspose3d(1, 5, 3, 2)), 192 * 5 * 27),
    "mm": (Net(lambda x: torch.mm(rows(x), of(3, 5))), 64 * 3 * 5),
    "addmm": (Net(lambda x: torch.addmm(of(5), rows(x), of(3, 5))), 64 * 3 * 5),
    "bmm": (Net(lambda x: torch.bmm(tokens(x), of(1, 3, 5))), 64 * 3 * 5),
    "baddbmm": (Net(lambda x: torch.baddbmm(of(5), tokens(x), of(1, 3, 5))), 64 * 3 * 5),
    "matmul of images": (Net(lambda x: x @ of(8, 5)), 24 * 8 * 5),
    "matmul that broadcasts": (Net(lambda x: rows(x) @ of(7, 3, 5)), 7 * 64 * 3 * 5),
    "matmul that broadcasts both": (Net(lambda x: x.unsqueeze(2) @ of(4, 8, 2)), 3 * 4 * 8 * 8 * 2),
    "a vector by matrices": (Net(lambda x: of(8) @ x), 24 * 8),
    "inner": (Net(lambda x: torch.inner(tokens(x), of(5, 3))), 64 * 3 * 5),
    "tensordot": (Net(lambda x: torch.tensordot(x, of(3, 8, 7), dims=([1, 3], [0, 1]))), 8 * 24 * 7),
    "tensordot of nothing": (Net(lambda x: torch.tensordot(x, of(5), dims=0)), 192 * 5),
    "chain_matmul": (Net(lambda x: torch.chain_matmul(rows(x), of(3, 5), of(5, 7))), 3 * 5 * 7 + 64 * 3 * 7),
    "cov": (Net(lambda x: torch.cov(rows(x).T)), 3 * 3 * 64),
    "attention": (Net(attend), 4 * 6 * 7 * (3 + 5)),
    "attention, masked": (Net(lambda x: attend(x, attn_mask=of(6, 7))), 4 * 6 * 7 * (3 + 5)),
    "attention, causal": (Net(lambda x: attend(x, is_causal=True)), 4 * 6 * 7 * (3 + 5)),
    "attention, grouped": (Net(lambda x: attend(x, enable_gqa=True)), 4 * 6 * 7 * (3 + 5)),
    "multi-head": (
        Net(lambda x, a: a(*3 * [tokens(x)])[0], nn.MultiheadAttention(3, 3, batch_first=True)),
        64 * 3 * 3 * 4 + 2 * 64 * 64 * 3,
    ),
    "multi-head, fused": (
        Net(lambda x, a: a(*3 * [tokens(x)], need_weights=False)[0], nn.MultiheadAttention(3, 1, batch_first=True)),
        64 * 3 * 3 * 4 + 2 * 64 * 64 * 3,
    ),
    "transformer layer": (
        on_tokens(nn.TransformerEncoderLayer(3, 1, 7, batch_first=True)),
        64 * 3 * 3 * 4 + 2 * 64 * 64 * 3 + 2 * 64 * 3 * 7,
    ),
    "LSTM": (on_tokens(nn.LSTM(3, 5, batch_first=True)), 64 * 4 * 5 * (3 + 5)),
    "LSTM, projected, two ways": (
        on_tokens(nn.LSTM(3, 5, 2, bidirectional=True, proj_size=2)),
        64 * 2 * (4 * 5 * (3 + 2) + 5 * 2 + 4 * 5 * (4 + 2) + 5 * 2),
    ),
    "LSTM of one": (Net(lambda x, a: a(rows(x)), nn.LSTM(3, 5, bias=False)), 64 * 4 * 5 * (3 + 5)),
    "GRU": (on_tokens(nn.GRU(3, 5, 2, bidirectional=True)), 64 * 2 * 3 * 5 * (3 + 5 + 10 + 5)),
    "RNN": (on_tokens(nn.RNN(3, 5, 2, bias=False)), 64 * 5 * (3 + 5 + 5 + 5)),
    "RNN of relu": (on_tokens(nn.RNN(3, 5, nonlinearity="relu")), 64 * 5 * (3 + 5)),
    "LSTM cell": (Net(lambda x, a: a(rows(x)), nn.LSTMCell(3, 5)), 64 * 4 * 5 * (3 + 5)),
    "GRU cell": (Net(lambda x, a: a(rows(x)), nn.GRUCell(3, 5, bias=False)), 64 * 3 * 5 * (3 + 5)),
    "RNN cell of one": (Net(lambda x, a: a(rows(x)[0]), nn.RNNCell(3, 5)), 5 * (3 + 5)),
    "unfolded": (Net(lambda x: of(6, 27) @ F.unfold(x, 3)), 36 * 27 * 6),
}  # fmt: skip


# What torch's counter has no formula for and does not take apart: nothing, there.
COUNTED_HERE_ALONE: dict[str, Case] = {
    "mv": (Net(lambda x: torch.mv(rows(x), of(3))), 64 * 3),
    "addmv": (Net(lambda x: torch.addmv(of(64), rows(x), of(3))), 64 * 3),
    "addmv in place": (Net(lambda x: of(64).addmv_(rows(x), of(3))), 64 * 3),
    "matmul with a vector": (Net(lambda x: torch.matmul(tokens(x), of(3))), 64 * 3),
    "matmul of images with a vector": (Net(lambda x: x @ of(8)), 24 * 8),
    "matmul of vectors": (Net(lambda x: x.flatten() @ of(192)), 192),
    "dot": (Net(lambda x: torch.dot(x.flatten(), of(192))), 192),
    "vdot": (Net(lambda x: torch.vdot(x.flatten(), of(192))), 192),
    "vecdot": (Net(lambda x: torch.linalg.vecdot(x, of(5, 1, 8, 1), dim=-2)), 5 * 3 * 8 * 8),
    "cosine": (Net(lambda x: F.cosine_similarity(tokens(x)[:, :, None], of(7, 3), dim=-1)), 64 * 7 * 3),
    "outer": (Net(lambda x: torch.outer(x.flatten(), of(5))), 192 * 5),
    "ger": (Net(lambda x: torch.ger(x.flatten(), of(5))), 192 * 5),
    "addr": (Net(lambda x: torch.addr(of(192, 5), x.flatten(), of(5))), 192 * 5),
    "kron": (Net(lambda x: torch.kron(rows(x).contiguous(), of(2, 5))), 192 * 10),
    "addbmm": (Net(lambda x: torch.addbmm(of(8, 5), x[0], of(3, 8, 5))), 3 * 8 * 8 * 5),
    "baddbmm in place": (Net(lambda x: of(1, 64, 5).baddbmm_(tokens(x), of(1, 3, 5))), 64 * 3 * 5),
    "linear to one number": (Net(lambda x: F.linear(tokens(x), of(3))), 64 * 3),
    "bilinear": (Net(lambda x, a: a(tokens(x), tokens(x)[..., :2]), nn.Bilinear(3, 2, 5)), 64 * 3 * 2 * 5),
    "conv_tbc": (Net(lambda x: torch.conv_tbc(tokens(x), of(3, 3, 5), of(5), 2)), 3 * 64 * 3 * 3 * 5),
    "deformable": (
        Net(lambda x, a: a(x, x.new_zeros(1, 18, 6, 6)), torchvision.ops.DeformConv2d(3, 6, 3)),
        36 * 3 * 6 * 9,
    ),
    "affine grid": (Net(lambda x: F.affine_grid(x.mean() + of(1, 2, 3), [1, 3, 4, 5], align_corners=False)), 20 * 6),
}  # fmt: skip
EINSUMS = {
    ("bnc,co->bno", (2, 5, 3), (3, 7)): 2 * 5 * 3 * 7,
    ("bhid,bhjd->bhij", (2, 3, 11, 13), (2, 3, 17, 13)): 2 * 3 * 11 * 13 * 17,
    ("B G H I D, B G H J D -> B G H I J", (1, 2, 3, 11, 13), (1, 2, 3, 17, 13)): 2 * 3 * 11 * 13 * 17,
    ("ab,bc,cd,de->ae", (20, 2), (2, 30), (30, 3), (3, 11)): 20 * 2 * 30 + 20 * 30 * 3 + 20 * 3 * 11,
    ("bi,oij,bj->bo", (6, 3), (5, 3, 4), (6, 4)): 6 * 5 * 3 * 4 + 6 * 5 * 4,
    ("...ij,...jk->...ik", (3, 8, 9), (8, 9, 4)[1:]): 3 * 8 * 9 * 4,
    ("...ij,jk", (3, 8, 9), (9, 4)): 3 * 8 * 9 * 4,
    ("ij,j", (8, 9), (9,)): 8 * 9,
    ("bij,bjk->bik", (1, 8, 9), (5, 9, 4)): 5 * 8 * 9 * 4,
    ("abcd,bcd->a", (5, 2, 3, 4), (2, 3, 4)): 120,
    ("abcd,be->ae", (5, 2, 3, 4), (2, 7)): 5 * 2 * 7,  # c and d are summed before
    ("be,abcd->ae", (2, 7), (5, 2, 3, 4)): 5 * 2 * 7,
    ("abii,bi->ab", (5, 2, 3, 3), (2, 3)): 5 * 2 * 3,
    ("ii->i", (4, 4)): 0,
    ("abc->c", (5, 2, 3)): 0,
    ("abcd,ab->abcd", (5, 2, 3, 4), (5, 2)): 0,  # scales
}


def witness(model: nn.Module, shape: tuple[int, int, int]) -> float:
    """Multiply-adds by torch's own counter, without computing anything; leaves the network on the meta device.

    On a CPU the counter would not see into oneDNN's LSTM nor into fused attention.
    """
    with torch.device("meta"), torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            model.to("meta").eval()(torch.zeros(1, *shape))
        return counter.get_total_flops() / 2


@pytest.mark.parametrize("name", COUNTED_BY_BOTH)
def test_an_operator_by_hand_and_by_the_second_witness(name: str) -> None:
    net, macs = COUNTED_BY_BOTH[name]
    operators = count_operators(net, SHAPE)
    assert (operators.total, operators.uncounted) == (macs, {})
    if name == "cov":  # asks for values, which are not there on the meta device
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # chain_matmul is deprecated
        assert witness(net, SHAPE) == macs


@pytest.mark.parametrize("name", COUNTED_HERE_ALONE)
def test_an_operator_that_the_second_witness_leaves_out(name: str) -> None:
    net, macs = COUNTED_HERE_ALONE[name]
    operators = count_operators(net, SHAPE)
    assert (operators.total, operators.uncounted) == (macs, {})
    assert witness(net, SHAPE) == 0


@pytest.mark.parametrize("case", EINSUMS, ids=lambda case: case[0])
def test_einsum_by_hand_and_by_the_second_witness(case: tuple[Any, ...]) -> None:
    equation, *shapes = case
    first, *others = shapes
    net = Net(lambda x: torch.einsum(equation, x.mean() + of(*first), *[of(*sizes) for sizes in others]))
    assert count_operators(net, SHAPE).total == EINSUMS[case] == witness(net, SHAPE)


def test_einsum_of_vectors_is_their_outer_product() -> None:
    net = Net(lambda x: torch.einsum("i,j->ij", x.flatten(), of(5)))
    assert count_macs(net, SHAPE) == 192 * 5
    assert witness(net, SHAPE) == 0


def test_einsum_takes_lists_of_dimensions_too() -> None:
    assert count_macs(Net(lambda x: torch.einsum(tokens(x), [0, 1, 2], of(3, 7), [2, 3], [0, 1, 3])), SHAPE) == 1344


@pytest.mark.parametrize("sizes", [(3, 5, 7), (7, 2, 9, 4, 3), (30, 35, 15, 5, 10, 20, 25)])
def test_a_chain_of_matrices_in_the_cheapest_order(sizes: tuple[int, ...]) -> None:
    def run(x: Tensor) -> Tensor:
        matrices = [of(*pair) for pair in pairwise(sizes)]
        return torch.linalg.multi_dot([x.flatten()[: sizes[0]], *matrices, of(sizes[-1])])

    # both vectors pass every matrix on their side of the place where they meet, which is where it is narrowest
    assert count_macs(Net(run), SHAPE) == sum(a * b for a, b in pairwise(sizes)) + min(sizes)
    inner = Net(lambda x: torch.linalg.multi_dot([x.mean() + of(*p) for p in pairwise(sizes)]))
    macs = count_macs(inner, SHAPE)
    assert macs == witness(inner, SHAPE)
    assert sizes[0] != 30 or macs == 15_125  # CLRS, section 15.2


def test_packed_sequences_count_the_steps_that_there_are() -> None:
    def run(x: Tensor, layer: nn.Module) -> Any:
        both = tokens(x).expand(2, 64, 3)
        return layer(nn.utils.rnn.pack_padded_sequence(both, torch.tensor([64, 40]), batch_first=True))[0].data

    for layer, gates in ((nn.LSTM(3, 5, batch_first=True), 4), (nn.GRU(3, 5, batch_first=True), 3)):
        assert count_macs(Net(run, layer), SHAPE) == (64 + 40) * gates * 5 * (3 + 5)


# -- what has no formula ---------------------------------------------------------------------------------------


class Distances(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cdist(tokens(x), of(1, 5, 3))


@torch.library.custom_op("compress_tests::product", mutates_args=())
def product(a: Tensor, b: Tensor) -> Tensor:
    return a @ b


def test_what_has_no_formula_is_named_with_its_layer() -> None:
    near = nn.Sequential(nn.Identity(), nn.ModuleDict({"deep": Distances()})["deep"])
    net = Net(lambda x, *layers: [layer(x) for layer in layers] + [torch.fft.rfft2(x)] * 2, near, Distances())
    operators = count_operators(net, SHAPE)
    assert operators.uncounted == {"layers.0.1": ("cdist",), "layers.1": ("cdist",), "": ("fft_rfft2",)}
    assert operators.total == 0
    assert describe_uncounted(operators.uncounted) == (
        "its MACs leave out what has no formula (layers.0.1 runs cdist; layers.1 runs cdist; forward runs fft_rfft2)"
    )


@pytest.mark.parametrize(
    ("run", "named"),
    [
        (lambda x: product(rows(x), of(3, 5)), "compress_tests::product"),
        (lambda x: F.embedding_bag(tokens(x)[0].long().abs(), of(4, 5)), "embedding_bag"),
        (lambda x: torch.sparse.mm(torch.eye(64).to_sparse(), rows(x)), "_sparse_mm"),
        (lambda x: torch.eye(64).to_sparse() @ rows(x), "matmul"),  # of shapes that the trace does not hold
        (lambda x: torch.linalg.solve(x + 9 * torch.eye(8), x), "linalg_solve"),
        (lambda x: torch.linalg.norm(x[0, 0], ord="nuc"), "linalg_norm"),
        (lambda x: torch.linalg.matrix_norm(x, ord=2), "linalg_matrix_norm"),
        (lambda x: torch.matrix_exp(x), "linalg_matrix_exp"),
        (lambda x: torch.pdist(rows(x)), "pdist"),
    ],
)
def test_kinds_without_a_formula(run: Callable[..., Any], named: str) -> None:
    operators = count_operators(Net(run), SHAPE)
    assert named in operators.uncounted[""][-1]
    assert operators.total == 0


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        return torch.sigmoid(x) @ weight

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient, None


def test_what_a_function_of_autograd_runs_counts() -> None:
    net = Net(lambda x: Doubled.apply(tokens(x), of(3, 5)))
    operators = count_operators(net, SHAPE)
    assert (operators.total, operators.uncounted) == (64 * 3 * 5, {})
    assert operators.fvcore == by_fvcore(net, SHAPE)[0] == 0  # it does not look inside


@pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated")
def test_scripted_functions_are_looked_into() -> None:
    swish, branches = torch.jit.script(_swish), torch.jit.script(_branches)
    assert count_operators(Net(lambda x: swish(x)), SHAPE).uncounted == {}
    assert count_operators(Net(lambda x: branches(x)), SHAPE).uncounted == {"": ("matmul",)}


def _swish(x: Tensor) -> Tensor:
    return F.relu(x) * torch.sigmoid(x)


def _branches(x: Tensor) -> Tensor:
    if x.sum() > 0:
        x = torch.matmul(x, x)
    return x


def test_what_cannot_be_traced_is_told_from_what_cannot_run() -> None:
    compiled = torch.compile(lambda x: x @ of(8, 5), backend="eager")
    with pytest.raises(InputError, match="Net: cannot be traced by torch.jit on 3x8x8 images"):
        count_macs(Net(lambda x: compiled(x)), SHAPE)
    with pytest.raises(InputError, match="Net: cannot run on 3x8x8 images"):
        count_macs(Net(lambda x: x @ of(7, 5)), SHAPE)


# -- what is free ----------------------------------------------------------------------------------------------

NORMAL: tuple[Callable[[Tensor], Any], ...] = (
    nn.ReLU(inplace=True), nn.ReLU6(), nn.LeakyReLU(), nn.ELU(), nn.SELU(), nn.CELU(), nn.GELU(), nn.SiLU(),
    nn.Mish(), nn.Sigmoid(), nn.Tanh(), nn.Hardswish(), nn.Hardsigmoid(), nn.Hardtanh(), nn.Softplus(), nn.Softsign(),
    nn.GLU(), nn.LogSigmoid(), nn.Hardshrink(), nn.Softshrink(), nn.Tanhshrink(), nn.Threshold(0, 1), nn.PReLU(3),
    nn.RReLU(), nn.Softmax(1), nn.LogSoftmax(1), nn.Softmin(1), nn.Softmax2d(), nn.Dropout(), nn.Dropout2d(),
    nn.AlphaDropout(), nn.BatchNorm2d(3), nn.InstanceNorm2d(3, affine=True), nn.GroupNorm(1, 3), nn.LayerNorm(8),
    nn.RMSNorm(8), nn.LocalResponseNorm(2), nn.MaxPool2d(2), nn.AvgPool2d(2), nn.LPPool2d(2, 2),
    nn.AdaptiveAvgPool2d(2), nn.AdaptiveMaxPool2d(2), nn.FractionalMaxPool2d(2, 3), nn.Upsample(scale_factor=2),
    nn.UpsamplingBilinear2d(16), nn.Upsample(16, mode="bicubic"), nn.ZeroPad2d(1), nn.ReflectionPad2d(1),
    nn.ReplicationPad2d(1), nn.CircularPad2d(1), nn.ConstantPad2d(1, 2.0), nn.Unfold(3), nn.PixelUnshuffle(2),
    nn.ChannelShuffle(3), nn.Flatten(), nn.Unflatten(1, (1, 3)), nn.Identity(),
    lambda x: F.normalize(x), lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", antialias=True),
    lambda x: F.grid_sample(x, x[:, :2].permute(0, 2, 3, 1), align_corners=False),
    lambda x: F.one_hot(x.long().abs(), 3), lambda x: F.embedding(x.long().abs(), of(9, 2)),
    lambda x: F.pad(x, (1, 1, 0, 0), "circular"), lambda x: x.roll(1, 2).flip(3).rot90(1, (2, 3)),
    lambda x: torch.cat([*x.chunk(3, 1), *x.split(1, 1), *x.unbind(1)[:0]], 1),
    lambda x: torch.where(x > 0, x, -x).masked_fill(x < 1, 0.0).clamp(0, 1), lambda x: x.topk(2, -1).values.sort(),
    lambda x: x.scatter_add(1, x.long(), x).gather(1, x.long()), lambda x: x.cumsum(1).logsumexp(1).var(1),
    lambda x: torch.addcmul(x, x, x).lerp(x, 0.5).addcdiv_(x, x + 1), lambda x: (x[..., ::2], x[:, [0, 2]], x[x > 0]),
    lambda x: torch.meshgrid(torch.arange(3.0), torch.linspace(0, 1, 3), indexing="ij"), lambda x: x.norm(dim=1),
    lambda x: torch.linalg.norm(x, dim=1) + torch.linalg.vector_norm(x, ord=2, dim=1) + x.std(1),
    lambda x: torch.linalg.norm(x, ord=2, dim=1), lambda x: torch.linalg.matrix_norm(x),
    lambda x: torch.fft.fftshift(x).to(torch.float64).type_as(x), lambda x: F.mse_loss(x, x) + F.kl_div(x, x),
    lambda x: torchvision.ops.roi_align(x, [of(1, 4)], 2), lambda x: x * x.mean((2, 3), keepdim=True) + of(8),
    lambda x: torch.nan_to_num(x).bernoulli().tril().repeat_interleave(2, 1).repeat(1, 1, 2, 2).contiguous(),
    lambda x: torch.polar(x, x).real + torch.view_as_real(torch.complex(x, x)).sum(-1),
    lambda x: (x, x.shape, x.size(1)),
)  # fmt: skip


@pytest.mark.parametrize("run", NORMAL, ids=range(len(NORMAL)))
def test_nothing_normal_is_named_or_counted(run: Callable[[Tensor], Any]) -> None:
    layers = [run] if isinstance(run, nn.Module) else []
    operators = count_operators(Net(lambda x, *_: run(x), *layers), SHAPE)
    assert (operators.total, operators.uncounted) == (0, {})


def test_the_lists_are_of_operators_that_exist_and_none_stands_in_both() -> None:
    there = {schema.name.removeprefix("aten::") for schema in torch._C._jit_get_all_schemas()}
    there |= {name[:-1] for name in there if name.endswith("_") and not name.endswith("__")}
    assert not ZERO_MAC_OPERATORS & MAC_FORMULAS.keys()
    assert there >= ZERO_MAC_OPERATORS, ZERO_MAC_OPERATORS - there
    assert MAC_FORMULAS.keys() - {"_addmm_activation"} <= there, MAC_FORMULAS.keys() - there
    assert len(ZERO_MAC_OPERATORS) > 600


# -- whole networks --------------------------------------------------------------------------------------------


def by_fvcore(model: nn.Module, shape: tuple[int, int, int]) -> tuple[int, int]:
    """Its total, and that of what multiplies and adds."""
    from fvcore.nn import FlopCountAnalysis

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        count = FlopCountAnalysis(model, torch.zeros(1, *shape))
        count.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        operators = count.by_operator()
    kinds = ("conv", "linear", "matmul", "bmm", "mm", "addmm", "einsum")
    return int(count.total()), int(sum(operators[kind] for kind in kinds))


ZOO = [name for name in zoo_names() if name not in ("custom", "timm", "torchvision")]
FAST_ZOO = ("vgg11_bn", "resnet20", "resnet20_cs", "resnet8x4", "mobilenetv1", "mobilenetv2", "resnet18")


@pytest.mark.parametrize("name", [n if n in FAST_ZOO else pytest.param(n, marks=pytest.mark.slow) for n in ZOO])
def test_the_zoo_beside_both_witnesses(name: str) -> None:
    shape = (3, 32, 32)
    net = zoo(name).eval()
    operators = count_operators(net, shape)
    assert (operators.fvcore, operators.total) == by_fvcore(net, shape)
    assert operators.uncounted == {}
    assert operators.total == witness(net, shape)


NAMES = models.list_models(module=models)
FAST = ("alexnet", "convnext_tiny", "googlenet", "mobilenet_v3_small", "shufflenet_v2_x0_5", "swin_t", "vit_b_32")


def classifier(name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[nn.Module, tuple[int, int, int]]:
    """A network of torchvision without any values, and images that are as small as it takes."""
    made = regnet.BlockParams.from_init_params.__func__  # type: ignore[attr-defined]

    def with_values(kind: Any, *args: Any, **kwargs: Any) -> Any:
        with torch.device("cpu"):
            return made(kind, *args, **kwargs)

    monkeypatch.setattr(regnet.BlockParams, "from_init_params", classmethod(with_values))
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    size = 224 if name.startswith(("vit_", "maxvit_")) else 96 if name == "inception_v3" else 64
    with torch.device("meta"):
        return models.get_model(name, weights=None, **options).eval(), (3, size, size)


@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in NAMES])
def test_torchvision_beside_the_second_witness(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net, shape = classifier(name, monkeypatch)
    expected = witness(net, shape)
    net.to_empty(device="cpu")
    for buffer in net.buffers():
        buffer.zero_()  # some are indices
    operators = count_operators(net, shape)
    assert (operators.total, operators.uncounted) == (expected, {})
    ours, theirs = (operators.fvcore, operators.total), by_fvcore(net, shape)
    if name.startswith(("vit_", "maxvit_")):  # fvcore does not count attention, and rounds einsum
        ours, theirs = ours[:1], theirs[:1]
    assert ours == theirs


def test_all_of_torchvision_and_of_the_zoo_is_there() -> None:
    assert (len(NAMES), len(ZOO)) == (80, 29)
    assert set(FAST) < set(NAMES)
    assert set(FAST_ZOO) < set(ZOO)


def test_fvcores_own_total_keeps_what_fvcore_rounds() -> None:
    net = Net(lambda x: torch.einsum("bij,bkj->bik", x.mean() + of(3, 101, 103), of(3, 107, 103)))
    operators = count_operators(net, SHAPE)
    assert operators.total == 3 * 101 * 103 * 107 == 3_339_363
    assert operators.fvcore == by_fvcore(net, SHAPE)[0] == 3_339_500


def test_where_fvcore_fails_its_total_has_our_count() -> None:
    net = Net(lambda x, a: a(torch.matmul(tokens(x), of(3)).view(1, 1, 1, 1, 8, 8)), nn.LayerNorm(8))
    operators = count_operators(net, SHAPE)
    assert operators.total == operators.fvcore == 64 * 3


class Noted(nn.Module):
    """Keeps what it has seen, in every way that a module can, and draws numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.calls, self.sizes = nn.Conv2d(3, 4, 1), 0, [0]
        self.total, self.mean = nn.Buffer(torch.zeros(())), nn.Buffer(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.sizes.append(x.shape[-1])
        self.conv.weight.data.clamp_(-0.01, 0.01)
        self.total = self.total + 1
        self.last = y = self.conv(x) + torch.rand(1)
        self.mean.copy_(y.mean((0, 2, 3)))
        return y


def test_counting_leaves_a_network_and_the_generators_as_they_were() -> None:
    net = Noted().train()
    net.conv.eval()
    drawn, attributes = torch.get_rng_state(), dict(vars(net))
    tensors = {name: (value, value.clone()) for name, value in net.state_dict(keep_vars=True).items()}
    assert count_operators(net, SHAPE).total == 64 * 3 * 4
    assert torch.equal(drawn, torch.get_rng_state())
    assert vars(net) == attributes
    assert net.sizes == [0]
    assert (net.training, net.conv.training) == (True, False)
    for name, value in net.state_dict(keep_vars=True).items():
        assert value is tensors[name][0]
        assert torch.equal(value, tensors[name][1])
