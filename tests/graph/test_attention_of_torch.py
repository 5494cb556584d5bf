"""torch's attention between two streams, of any form: groups by hand, and the law for uneven plans."""

from typing import Any

import pytest
import torch
from lawful import SHAPE, Around, check_law, widths
from torch import Tensor, nn
from torch.nn import functional as F

from compress.graph.build import channel_graph
from compress.models.layers import Attention


def rows(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def between(s: Any, x: Tensor) -> Tensor:
    few, many = rows(F.avg_pool2d(s.other(x), 4)), rows(F.avg_pool2d(x, 2))
    if not getattr(s.attend, "batch_first", True):
        few, many = few.transpose(0, 1), many.transpose(0, 1)
        return s.attend(few, many, many)[0].mean(0)  # type: ignore[no-any-return]
    return s.attend(few, many, many)[0].mean(1)  # type: ignore[no-any-return]


def decoded(s: Any, x: Tensor) -> Tensor:
    return s.layer(rows(F.avg_pool2d(s.other(x), 4)), rows(F.avg_pool2d(x, 2))).mean(1)  # type: ignore[no-any-return]


def other(width: int = 16) -> nn.Conv2d:
    return nn.Conv2d(16, width, 1)


def grouped(s: Any, x: Tensor) -> Tensor:
    """Four heads of queries, two of keys and values."""
    q, k, v = s.q(t := rows(F.avg_pool2d(x, 4))), s.k(t), s.v(t)
    q, k, v = (y.unflatten(2, (n, -1)).transpose(1, 2) for y, n in ((q, s.heads), (k, s.shared), (v, s.shared)))
    return s.o(F.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2).flatten(2)).mean(1)  # type: ignore[no-any-return]


def repeated(s: Any, x: Tensor) -> Tensor:
    """The same, with the keys and values repeated by hand."""
    q, k, v = s.q(t := rows(F.avg_pool2d(x, 4))), s.k(t), s.v(t)
    q = q.unflatten(2, (s.heads, -1)).transpose(1, 2)
    k, v = (y.unflatten(2, (s.shared, -1)).transpose(1, 2).repeat_interleave(2, 1) for y in (k, v))
    return s.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)).mean(1)  # type: ignore[no-any-return]


def one_for_all(s: Any, x: Tensor) -> Tensor:
    """One head of keys and values for all heads of queries."""
    t = rows(F.avg_pool2d(x, 4))
    q = s.q(t).unflatten(2, (s.heads, -1)).transpose(1, 2)
    k, v = s.k(t)[:, None], s.v(t)[:, None]
    return s.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)).mean(1)  # type: ignore[no-any-return]


def normalised(s: Any, x: Tensor) -> Tensor:
    """Cross-covariance attention: products over tokens, of unit vectors."""
    t = rows(F.avg_pool2d(x, 4))
    n, tokens, c = t.shape
    q, k, v = s.qkv(t).reshape(n, tokens, 3, s.heads, c // s.heads).permute(2, 0, 3, 4, 1).unbind(0)
    weights = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)).softmax(-1)
    return s.o((weights @ v).permute(0, 3, 1, 2).reshape(n, tokens, c)).mean(1)  # type: ignore[no-any-return]


def shared(width: int, **more: Any) -> dict[str, Any]:
    return {
        "q": nn.Linear(16, 16),
        "k": nn.Linear(16, width),
        "v": nn.Linear(16, width),
        "o": nn.Linear(16, 16),
        **more,
    }


KINDS: dict[str, tuple[dict[str, int], Around]] = {
    "from one stream to another": (
        {"stem": 16, "attend": 4, "attend.out_proj": 16},
        Around(between, attend=nn.MultiheadAttention(16, 4, batch_first=True), other=other()),
    ),
    "time first, without biases": (
        {"stem": 16, "attend": 4, "attend.out_proj": 16},
        Around(between, attend=nn.MultiheadAttention(16, 4, bias=False), other=other()),
    ),
    "keys of another width": (
        {"stem": 16, "other": 8, "attend": 2, "attend.out_proj": 8},
        Around(between, 8, attend=nn.MultiheadAttention(8, 2, kdim=16, vdim=16, batch_first=True), other=other(8)),
    ),
    "keys with one more": (
        {}, Around(between, attend=nn.MultiheadAttention(16, 4, add_bias_kv=True), other=other()),
    ),
    "a decoder's layer": (
        {"stem": 16, "layer.self_attn": 4, "layer.multihead_attn": 4, "layer.linear1": 24},
        Around(decoded, layer=nn.TransformerDecoderLayer(16, 4, 24, 0.0, batch_first=True), other=other()),
    ),
    "queries in groups": ({"stem": 16, "q": 2, "o": 16}, Around(grouped, **shared(8, heads=4, shared=2))),
    "queries in groups, by hand": ({"stem": 16, "q": 2, "o": 16}, Around(repeated, **shared(8, heads=4, shared=2))),
    "one head of keys": ({"stem": 16, "q": 4, "o": 16}, Around(one_for_all, **shared(4, heads=4))),
    "of unit vectors": (
        {"stem": 4, "o": 16}, Around(normalised, qkv=nn.Linear(16, 48), o=nn.Linear(16, 16), heads=4),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_groups_by_hand_and_the_law(kind: str) -> None:
    expected, model = KINDS[kind]
    assert widths(check_law(model)) == expected


@pytest.mark.parametrize(("kind", "name", "why"), [
    ("keys with one more", "attend", "is a MultiheadAttention that the channel graph does not know"),
    ("one head of keys", "k", "is summed over in a product of activations"),
    ("one head of keys", "v", "is combined with channels on another dimension"),
])  # fmt: skip
def test_what_stays_whole_is_named(kind: str, name: str, why: str) -> None:
    assert channel_graph(KINDS[kind][1], SHAPE).frozen[name] == why


@pytest.mark.parametrize("batch_first", [True, False])
def test_attention_with_keys_of_another_width_that_lost_nothing_is_torchs(batch_first: bool) -> None:
    torch.manual_seed(0)
    whole = nn.MultiheadAttention(16, 4, kdim=6, vdim=10, batch_first=batch_first).eval()
    ours = Attention(whole)
    assert ours.state_dict().keys() == whole.state_dict().keys()
    query, key, value = torch.randn(5, 5, 16), torch.randn(5, 5, 6), torch.randn(5, 5, 10)
    for options in ({}, {"need_weights": False}, {"average_attn_weights": False}):
        expected, got = whole(query, key, value, **options), ours(query, key, value, **options)
        assert torch.allclose(expected[0], got[0], atol=1e-6)
        assert got[1] is None or torch.allclose(expected[1], got[1], atol=1e-6)
