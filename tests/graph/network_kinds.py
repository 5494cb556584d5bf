# ruff: noqa: E501
"""The kinds of operation that `random_networks` makes networks of.

A kind takes an activation `{x}` of a layout and gives `{y}`. `init` and `forward` are lines of a network's source:

    {s}        a name of its own on the module, `self.m3`; {t} for a local variable, `t3`
    {x} {y}    the activation that it takes, and the one that it gives
    {z}        another of the same shape; {w} one of the same layout, of any number {e} of channels and the same places
    {v}        a vector (B, {f})
    {c} {d}    the number of channels of {x}, and a random one for {y}
    {g}        a divisor of {c}, 1 < g < c; {k} a multiple of it
    {h} {i}    c // 2; the place of the operation
    {n} the number of tokens or pixels, which makes a network of one image size

Layouts: map (B, C, H, W), tokens (B, N, C), vector (B, C), row (B, C, L), volume (B, C, D, H, W).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    name: str
    takes: str
    gives: str
    init: str
    forward: str


def _kinds(takes: str, gives: str, table: str) -> list[Kind]:
    """Lines "name | init | forward"; statements end with ";;"."""
    rows = [[part.strip() for part in line.split("|", 2)] for line in table.strip().splitlines()]
    assert all(len(row) == 3 for row in rows)
    return [Kind(name, takes, gives, init, forward) for name, init, forward in rows]


LAYERS = _kinds(
    "map",
    "map",
    """
conv                       | {s} = nn.Conv2d({c}, {d}, 3, padding=1)                     | {y} = {s}({x})
conv, stride 2             | {s} = nn.Conv2d({c}, {d}, 3, stride=2, padding=1)           | {y} = {s}({x})
conv 1x1 without bias      | {s} = nn.Conv2d({c}, {d}, 1, bias=False)                    | {y} = {s}({x})
conv-bn-relu               | {s} = nn.Sequential(nn.Conv2d({c}, {d}, 3, padding=1, bias=False), nn.BatchNorm2d({d}), nn.ReLU(True)) | {y} = {s}({x})
depthwise                  | {s} = nn.Conv2d({c}, {c}, 3, padding=1, groups={c})         | {y} = {s}({x})
depthwise, two each        | {s} = nn.Conv2d({c}, 2 * {c}, 3, padding=1, groups={c})     | {y} = {s}({x})
grouped                    | {s} = nn.Conv2d({c}, {k}, 3, padding=1, groups={g})         | {y} = {s}({x})
dilated, same              | {s} = nn.Conv2d({c}, {d}, 3, padding="same", dilation=2)    | {y} = {s}({x})
circular padding           | {s} = nn.Conv2d({c}, {d}, 3, padding=1, padding_mode="circular") | {y} = {s}({x})
asymmetric                 | {s} = nn.Conv2d({c}, {d}, (1, 3), padding=(0, 1))           | {y} = {s}({x})
conv as a function         | {s} = nn.Conv2d({c}, {d}, 3)                                | {y} = F.conv2d({x}, {s}.weight, {s}.bias, padding=1)
conv called twice          | {s} = nn.Conv2d({c}, {c}, 3, padding=1)                     | {y} = {s}(F.relu({s}({x})))
conv called on two         | {s} = nn.Conv2d({c}, {d}, 1)                                | {y} = {s}({x}) - {s}({z})
two with one weight        | {s}a, {s}b = nn.Conv2d({c}, {d}, 1), nn.Conv2d({c}, {d}, 1);; {s}b.weight = {s}a.weight | {y} = {s}a({x}) * torch.sigmoid({s}b({z}))
conv of one's own          | {s} = OwnConv({c}, {d}, 3)                                  | {y} = {s}({x})
standardised conv          | {s} = StandardisedConv({c}, {d}, 3, padding=1)              | {y} = {s}({x})
weight norm                | {s} = nn.utils.parametrizations.weight_norm(nn.Conv2d({c}, {d}, 1)) | {y} = {s}({x})
linear, channels last      | {s} = nn.Linear({c}, {d})                                   | {y} = {s}({x}.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
conv1d over pixels         | {s} = nn.Conv1d({c}, {d}, 3, padding=1)                     | {y} = {s}({x}.flatten(2)).unflatten(2, {x}.shape[2:])
conv3d of one frame        | {s} = nn.Conv3d({c}, {d}, (1, 3, 3), padding=(0, 1, 1))     | {y} = {s}({x}.unsqueeze(2)).squeeze(2)
transposed                 | {s} = nn.ConvTranspose2d({c}, {d}, 2, 2)                    | {y} = F.max_pool2d({s}({x}), 2)
conv, pixel shuffle        | {s} = nn.Conv2d({c}, 4 * {d}, 1)                            | {y} = F.avg_pool2d(F.pixel_shuffle({s}({x}), 2), 2)
inverted residual          | {s}a, {s}b, {s}c = nn.Conv2d({c}, 2 * {c}, 1), nn.Conv2d(2 * {c}, 2 * {c}, 3, 1, 1, groups=2 * {c}), nn.Conv2d(2 * {c}, {c}, 1) | {y} = {x} + {s}c(F.relu6({s}b(F.relu6({s}a({x})))))
bottleneck                 | {s}a, {s}b = nn.Conv2d({c}, 4, 1), nn.Conv2d(4, {c}, 1)     | {y} = F.relu({x} + {s}b(F.relu({s}a({x}))))
layers in a loop           | {s} = nn.ModuleList(nn.Conv2d({c}, {c}, 1) for _ in range(2)) | {y} = {x};; for {t} in {s}: {y} = {y} + torch.tanh({t}({y}))
dense block                | {s}a, {s}b = nn.Conv2d({c}, 4, 1), nn.Conv2d({c} + 4, 4, 1) | {t} = torch.cat([{x}, F.relu({s}a({x}))], 1);; {y} = torch.cat([{t}, {s}b({t})], 1)
two branches               | {s}a, {s}b = nn.Conv2d({c}, {d}, 1), nn.Conv2d({c}, {d}, 3, padding=1) | {y} = {s}a({x}) + {s}b({x})
auxiliary in training      | {s}a, {s}b = nn.Conv2d({c}, {d}, 1), nn.Conv2d({c}, {d}, 1) | {y} = {s}a({x}) + {s}b({x}) if self.training else {s}a({x})
selective kernel           | {s}a, {s}b = nn.Conv2d({c}, {d}, 1), nn.Conv2d({c}, {d}, 3, padding=1);; {s}w = nn.Linear({d}, {d}) | {t} = torch.stack([{s}a({x}), {s}b({x})], 1);; {y} = ({t} * {s}w({t}.mean((3, 4))).softmax(1)[..., None, None]).sum(1)
""",
)

NORMS = _kinds(
    "map",
    "map",
    """
batch norm                 | {s} = nn.BatchNorm2d({c})                                   | {y} = {s}({x})
batch norm, not affine     | {s} = nn.BatchNorm2d({c}, affine=False)                     | {y} = {s}({x})
batch norm of the batch    | {s} = nn.BatchNorm2d({c}, track_running_stats=False)        | {y} = {s}({x})
batch norm, super          | {s} = CallsSuper({c})                                       | {y} = {s}({x})
batch norm and activation  | {s} = NormAct({c})                                          | {y} = {s}({x})
batch norm with a gate     | {s} = GatedNorm({c})                                        | {y} = {s}({x})
instance norm              | {s} = nn.InstanceNorm2d({c}, affine=True)                   | {y} = {s}({x})
group norm                 | {s} = nn.GroupNorm({g}, {c})                                | {y} = {s}({x})
group norm of one          | {s} = nn.GroupNorm(1, {c})                                  | {y} = {s}({x})
group norm of each         | {s} = nn.GroupNorm({c}, {c})                                | {y} = {s}({x})
group norm, not affine     | {s} = nn.GroupNorm({g}, {c}, affine=False)                  | {y} = {s}({x})
group norm as a function   | {s} = nn.Parameter(torch.ones({c}))                         | {y} = F.group_norm({x}, {g}, {s})
layer norm, channels last  | {s} = nn.LayerNorm({c})                                     | {y} = {s}({x}.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
layer norm of maps         | {s} = LayerNorm2d({c})                                      | {y} = {s}({x})
layer norm by hand         | {s} = LayerNormByHand({c})                                  | {y} = {s}({x})
response norm              | {s} = ResponseNorm({c})                                     | {y} = {s}({x})
norm, then a projection    | {s} = NormThenMix({c})                                      | {y} = {s}({x})
norm with own statistics   | {s} = CountingNorm({c})                                     | {y} = {s}({x})
conditional batch norm     | {s} = ConditionalBatchNorm({c}, {f})                        | {y} = {s}({x}, {v})
conditional group norm     | {s}a, {s}b = ConditionalGroupNorm({g}, {c}), nn.Linear({f}, {c}) | {y} = {s}a({x}, scale={s}b({v}))
group norm, no condition   | {s} = ConditionalGroupNorm({g}, {c})                        | {y} = {s}({x})
group norm, activation     | {s} = GroupNormAct({g}, {c})                                | {y} = {s}({x})
layer norm, activation     | {s} = LayerNormAct({c})                                     | {y} = {s}({x})
rms norm, activation       | {s} = RMSNormAct({c})                                       | {y} = {s}({x})
l2 norm                    |                                                             | {y} = F.normalize({x}, dim=1)
norm of the places         |                                                             | {y} = {x} / (1 + {x}.norm(2, (2, 3), True))
local response             | {s} = nn.LocalResponseNorm(3)                               | {y} = {s}({x})
layer norm over all        | {s} = nn.LayerNorm([{c}, *{sizes}])                         | {y} = {s}({x})
subtracting the mean       |                                                             | {y} = {x} - {x}.mean(1, keepdim=True)
""",
)

POINTWISE = _kinds(
    "map",
    "map",
    """
relu                       | {s} = nn.ReLU()                                             | {y} = {s}({x})
relu in place              |                                                             | {y} = F.relu_({x} * 1.5)
sigmoid of nothing is half |                                                             | {y} = torch.sigmoid({x}) + torch.cos({x})
silu, hardswish, gelu      | {s} = nn.GELU()                                             | {y} = F.silu({x}) + F.hardswish({x}) * {s}({x})
prelu of each              | {s} = nn.PReLU({c})                                         | {y} = {s}({x})
prelu of all               | {s} = nn.PReLU()                                            | {y} = {s}({x})
where, clamp, masked fill  |                                                             | {y} = torch.where({x} > 0, {x}, 0.1 * {x}).clamp(-3, 3).masked_fill({x} > 2, 0.5)
sum                        |                                                             | {y} = {x} + {z}
sum, scaled                |                                                             | {y} = torch.add({x}, {z}, alpha=0.5)
sum in place               |                                                             | {y} = {x} * 1;; {y} += {z}
product                    |                                                             | {y} = {x} * torch.tanh({z})
maximum                    |                                                             | {y} = torch.maximum({x}, {z})
lerp                       |                                                             | {y} = torch.lerp({x}, {z}, 0.3)
minus itself               |                                                             | {y} = 1 - {x}
noise, times nothing       |                                                             | {t} = torch.get_rng_state();; {y} = {x} + 0 * torch.rand_like({x}) + 0 * np.random.rand() + 0 * random.random();; torch.set_rng_state({t})
dropout                    | {s} = nn.Dropout2d(0.0)                                     | {y} = {s}({x})
drop path                  | {s}a, {s}b = nn.Conv2d({c}, {c}, 1), DropPath()             | {y} = {x} + {s}b({s}a({x}))
counts its calls           | {s} = Counted()                                             | {y} = {s}({x})
buffer that is mutated     | self.register_buffer("b{i}", torch.ones(1, {c}, 1, 1))      | {t} = self.b{i}.mul_(1.01) if self.training else self.b{i};; {y} = {x} * {t}
buffer of the channels     | self.register_buffer("b{i}", torch.rand({c}, 1, 1))         | {y} = {x} - self.b{i}
scale                      | {s} = nn.Parameter(torch.rand({c}, 1, 1))                   | {y} = {x} * {s}
scale, by an attribute     | {s}, {s}s = nn.Parameter(torch.rand({c})), ({c}, 1, 1)      | {y} = {x} * {s}.view({s}s)
scale, reshaped            | {s} = nn.Parameter(torch.rand({c}))                         | {y} = {x} * {s}.reshape(1, -1, 1, 1) + {s}[None, :, None, None]
scale, channels last       | {s} = LayerScale({c})                                       | {y} = {s}({x}.movedim(1, -1)).movedim(-1, 1)
a scale that is shared     | {s} = nn.Parameter(torch.rand({c}, 1, 1))                   | {y} = {x} * {s} + {z} * {s}
one scale                  | {s} = nn.Parameter(torch.rand(1))                           | {y} = {x} * {s} + {z} * (1 - {s})
weights of a sum           | {s} = nn.Parameter(torch.rand(2))                           | {t} = {s}.softmax(0);; {y} = {t}[0] * {x} + {t}[1] * {z}
a list of scales           | {s} = nn.ParameterList(nn.Parameter(torch.rand({c}, 1, 1)) for _ in range(2)) | {y} = {x} * {s}[0] + {s}[1]
position of pixels         | {s} = nn.Parameter(torch.rand(1, {c}, *{sizes}))            | {y} = {x} + {s}
scale of pixels            | {s} = nn.Parameter(torch.rand(1, 1, *{sizes}))              | {y} = {x} * {s}
squeeze-excite             | {s}a, {s}b = nn.Linear({c}, 4), nn.Linear(4, {c})           | {t} = torch.sigmoid({s}b(F.relu({s}a({x}.mean((2, 3))))));; {y} = {x} * {t}.view(*{t}.shape, 1, 1)
squeeze-excite, expanded   | {s} = nn.Linear({c}, {c})                                   | {t} = {s}(F.adaptive_avg_pool2d({x}, 1).flatten(1));; {y} = {x} * {t}.view({x}.size(0), {x}.size(1), 1, 1).expand_as({x})
squeeze-excite by convs    | {s} = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d({c}, 4, 1), nn.ReLU(), nn.Conv2d(4, {c}, 1), nn.Hardsigmoid()) | {y} = {x} * {s}({x})
efficient channel gate     | {s} = nn.Conv1d(1, 1, 3, padding=1)                         | {y} = {x} * torch.sigmoid({s}({x}.mean((2, 3)).unsqueeze(1)).transpose(1, 2).unsqueeze(-1))
spatial gate               | {s} = nn.Conv2d({c}, 1, 1)                                  | {y} = {x} * torch.sigmoid({s}({x}))
gate of mean and maximum   | {s} = nn.Conv2d(2, 1, 3, padding=1)                         | {y} = {x} * torch.sigmoid({s}(torch.cat([{x}.mean(1, True), {x}.amax(1, True)], 1)))
gate of a vector           | {s} = nn.Linear({f}, {c})                                   | {y} = {x} * torch.sigmoid({s}({v}))[:, :, None, None]
scale and shift            | {s} = nn.Linear({f}, 2 * {c})                               | {t}a, {t}b = {s}({v})[..., None, None].chunk(2, 1);; {y} = {x} * (1 + {t}a) + {t}b
style: mean and deviation  |                                                             | {t} = {z}.std((2, 3), keepdim=True) / (1 + {x}.std((2, 3), keepdim=True));; {y} = ({x} - {x}.mean((2, 3), keepdim=True)) * {t} + {z}.mean((2, 3), keepdim=True)
running sum                |                                                             | {y} = {x}.cumsum(2) * 0.2
softmax over pixels        |                                                             | {y} = {x} * {x}.flatten(2).softmax(-1).view_as({x})
softmax over channels      |                                                             | {y} = {x} * {x}.softmax(1)
attention over pixels      | {s}a, {s}b = nn.Conv2d({c}, 4, 1), nn.Conv2d({c}, {c}, 1)   | {t} = {s}a({x}).flatten(2);; {t} = ({t}.transpose(1, 2) @ {t} * 0.1).softmax(-1);; {y} = {x} + ({s}b({x}).flatten(2) @ {t}).view({x}.shape)
attention over channels    |                                                             | {t} = {x}.flatten(2);; {y} = {x} + (({t} @ {t}.transpose(1, 2) * 0.05).softmax(-1) @ {t}).view_as({x})
""",
)

SHAPES = _kinds(
    "map",
    "map",
    """
max pool                   | {s} = nn.MaxPool2d(2)                                       | {y} = {s}({x})
average pool, function     |                                                             | {y} = F.avg_pool2d({x}, 3, 1, 1) - F.max_pool2d({x}, 3, 1, 1)
adaptive pool              | {s} = nn.AdaptiveAvgPool2d(3)                               | {y} = {s}({x})
resized                    |                                                             | {y} = F.interpolate(F.max_pool2d({x}, 2), size={x}.shape[2:], mode="bilinear")
upsample                   | {s} = nn.Upsample(scale_factor=2)                           | {y} = F.avg_pool2d({s}({x}), 2)
padded, cropped            |                                                             | {y} = F.pad({x}, (1, 2, 0, 1))[:, :, 1:, :-1]
padding layer              | {s} = nn.ReflectionPad2d(1)                                 | {y} = F.avg_pool2d({s}({x}), 3, 1)
padded channels            |                                                             | {y} = F.pad({x}, (0, 0, 0, 0, 0, 2))
rolled, flipped            |                                                             | {y} = {x}.roll(1, 2) + torch.flip({x}, (3,))
channels rolled            |                                                             | {y} = {x} + {x}.roll(1, 1)
transposed places          |                                                             | {y} = {x}.transpose(2, 3).contiguous()
every second pixel         |                                                             | {y} = torch.cat([{x}[:, :, ::2], {x}[:, :, 1::2]], 2)
cat                        |                                                             | {y} = torch.cat([{x}, {w}], 1)
cat with itself            |                                                             | {y} = torch.cat([{x}, -{x}], dim=1)
cat of three               | {s} = nn.Conv2d({c}, 4, 1)                                  | {y} = torch.cat(({x}, {s}({x}), {w}), -3)
cat over height            |                                                             | {y} = torch.cat([{x}, {z}], 2)
cat over height, two convs | {s}a, {s}b = nn.Conv2d({c}, {d}, 1), nn.Conv2d({c}, {d}, 1) | {y} = F.max_pool2d(torch.cat([{s}a({x}), {s}b({x})], 2), 2)
cat over the batch         | {s} = nn.Conv2d({c}, {d}, 1)                                | {t}a, {t}b = {s}(torch.cat([{x}, {z}])).chunk(2);; {y} = {t}a - {t}b
cat of a product           | {s} = nn.Conv2d({c}, {d}, 1)                                | {y} = torch.cat([{x}, {s}({x}), {x} * {z}], 1)
stack, interleaved         | {s} = nn.Conv2d({c}, {c}, 1)                                | {y} = torch.stack([{x}, {s}({x})], 2).flatten(1, 2)
stack, one after the other | {s} = nn.Conv2d({c}, {c}, 1)                                | {y} = torch.stack([{x}, {s}({x})], 1).flatten(1, 2)
stack, maximum             | {s} = nn.Conv2d({c}, {c}, 1)                                | {y} = torch.stack([{x}, {s}({x}), {z}], -1).max(-1).values
stack, sum of a product    | {s}a, {s}b = nn.Conv2d({c}, {d}, 1), nn.Conv2d({c}, {d}, 1) | {t} = torch.stack([{s}a({x}), {s}b({x})]);; {y} = {t}.sum(0) + {t}.prod(0)
stack, unbound             |                                                             | {t}a, {t}b = torch.stack([{x}, {z}], dim=1).unbind(1);; {y} = {t}a * torch.sigmoid({t}b)
glu by chunks              | {s} = nn.Conv2d({c}, 2 * {d}, 1)                            | {t}a, {t}b = {s}({x}).chunk(2, dim=1);; {y} = {t}a * torch.sigmoid({t}b)
glu                        | {s} = nn.Conv2d({c}, 2 * {d}, 1)                            | {y} = F.glu({s}({x}), 1)
chunks that grow           | {s}a, {s}b = nn.Conv2d({c}, 2 * {d}, 1), nn.Conv2d({d}, {d}, 3, padding=1) | {t} = list({s}a({x}).chunk(2, 1));; {t}.append({s}b({t}[-1]));; {y} = torch.cat({t}, 1)
three chunks               | {s} = nn.Conv2d({c}, 12, 1)                                 | {y} = sum({s}({x}).chunk(3, 1))
chunks in place            | {s} = nn.Conv2d({c}, 2 * {d}, 1)                            | {t}a, {t}b = {s}({x}).chunk(2, 1);; {t}a += {t}b;; {t}b *= 0.5;; {y} = torch.cat([{t}b, {t}a], 1)
split in place             | {s} = nn.Conv2d({c}, 2 * {d}, 1)                            | {t} = {s}({x});; {t}a, {t}b = torch.split({t}, {t}.shape[1] // 2, 1);; {t}a.mul_(2).add_({t}b);; {y} = {t}
slice in place             |                                                             | {y} = {x} * 1;; {y}[:, :2] = 0.5
places in place            |                                                             | {y} = {x} * 1;; {y}[:, :, 0] = {y}[:, :, 1] * 2
split by the size          |                                                             | {t}a, {t}b = {x}.split({x}.shape[1] // 2, 1);; {y} = torch.cat([{t}b, torch.tanh({t}a)], 1)
split by an attribute      | {s} = [{c} - 2, 2]                                          | {t}a, {t}b = {x}.split({s}, dim=1);; {y} = torch.cat([F.relu({t}a), {t}b], 1)
split, a layer on a part   | {s}, {s}c = [2, {c} - 2], nn.Conv2d(2, 2, 3, padding=1)     | {t}a, {t}b = torch.split({x}, {s}, 1);; {y} = torch.cat([{s}c({t}a), {t}b], 1)
split, written             | {s} = nn.Conv2d({c}, 6, 1)                                  | {t}a, {t}b = {s}({x}).split([4, 2], 1);; {y} = torch.cat([{t}b, {t}a], 1)
tensor split               | {s} = nn.Conv2d({c}, 2 * {d}, 1)                            | {t}a, {t}b = torch.tensor_split({s}({x}), 2, dim=1);; {y} = {t}a + {t}b
slices by the size         |                                                             | {t} = {x}.shape[1] // 2;; {y} = torch.cat([{x}[:, {t}:], {x}[:, :{t}]], 1)
slices by an attribute     | {s}, {s}c = {h}, nn.Conv2d({h}, {d}, 1)                     | {y} = {s}c({x}[:, :{s}])
slices, written            |                                                             | {y} = {x}[:, 1:]
narrow                     |                                                             | {y} = {x}.narrow(1, 0, {x}.size(1) // 2)
partial conv               | {s}, {s}c = 2, nn.Conv2d(2, 2, 3, padding=1, bias=False)    | {t} = {x}.clone();; {t}[:, :{s}] = {s}c({t}[:, :{s}]);; {y} = {t}
every second channel       |                                                             | {y} = {x}[:, ::2]
channels by an index       | self.register_buffer("b{i}", torch.randperm({c}))           | {y} = {x}[:, self.b{i}] + {x}
channels selected          | self.register_buffer("b{i}", torch.tensor([0, 2, 1]))       | {y} = {x}.index_select(1, self.b{i})
one channel                |                                                             | {y} = {x} * {x}[:, 0:1] + {x}[:, -1].unsqueeze(1)
shuffle by hand            | {s} = {g}                                                   | {t}b, {t}c, {t}h, {t}w = {x}.shape;; {y} = {x}.view({t}b, {s}, {t}c // {s}, {t}h, {t}w).transpose(1, 2).reshape({t}b, {t}c, {t}h, {t}w)
shuffle, written           |                                                             | {t}b, {t}c, {t}h, {t}w = {x}.size();; {y} = {x}.reshape({t}b, {g}, -1, {t}h, {t}w).permute(0, 2, 1, 3, 4).flatten(1, 2)
channel shuffle            | {s} = nn.ChannelShuffle({g})                                | {y} = {s}({x})
groups, averaged           | {s} = {g}                                                   | {y} = {x}.unflatten(1, ({s}, -1)).mean(1)
groups, maximum            |                                                             | {y} = {x}.view({x}.size(0), -1, {g}, {x}.size(2), {x}.size(3)).amax(2)
pixel unshuffle            | {s} = nn.Conv2d(4 * {c}, {d}, 1)                            | {y} = {s}(F.pixel_unshuffle(F.interpolate({x}, scale_factor=2), 2))
pixels to channels by hand | {s} = nn.Conv2d(4 * {c}, {d}, 1)                            | {t} = F.interpolate({x}, scale_factor=2);; {y} = {s}(torch.cat([{t}[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)], 1))
windows                    | {s}, {s}a = 2, nn.LayerNorm({c})                            | {t}b, {t}c, {t}h, {t}w = {x}.shape;; {t} = F.interpolate({x}, scale_factor=2).view({t}b, {t}c, {t}h, {s}, {t}w, {s}).permute(0, 2, 4, 3, 5, 1).reshape(-1, {s} * {s}, {t}c);; {t} = {s}a({t}).mean(1);; {y} = {t}.view({t}b, {t}h, {t}w, -1).permute(0, 3, 1, 2)
unfold                     | {s} = nn.Conv2d(9 * {c}, {d}, 1)                            | {y} = {s}(F.unfold({x}, 3, padding=1).view({x}.size(0), -1, *{x}.shape[2:]))
repeated                   |                                                             | {y} = {x}.repeat(1, 2, 1, 1)
repeat interleave          |                                                             | {y} = {x}.repeat_interleave(2, 1)
expanded                   |                                                             | {y} = {x}.mean((2, 3), keepdim=True).expand(-1, -1, *{x}.shape[2:]) + {x}
tiled mean                 |                                                             | {y} = {x}.mean((2, 3), keepdim=True).tile(1, 1, 3, 3)
sum over height, outer     |                                                             | {y} = torch.einsum("bch,bcw->bchw", {x}.mean(3), {x}.mean(2))
einsum with a parameter    | {s} = nn.Parameter(torch.rand({c}, {d}) - 0.5)              | {y} = torch.einsum("bchw,cd->bdhw", {x}, {s})
matmul with a parameter    | {s} = nn.Parameter(torch.rand({c}, {d}) - 0.5)              | {y} = ({x}.permute(0, 2, 3, 1) @ {s}).permute(0, 3, 1, 2)
linear by a bare parameter | {s} = nn.Parameter(torch.rand({d}, {c}) - 0.5)              | {y} = F.linear({x}.transpose(1, -1), {s}).transpose(1, -1)
sorted over height         |                                                             | {y} = {x}.sort(2).values
largest of the channels    |                                                             | {y} = {x} * {x}.max(1, keepdim=True)[0]
an assertion on the width  | {s} = {c}                                                   | assert {x}.shape[1] == {s};; {y} = {x} + 1
a branch on the width      |                                                             | {y} = {x} if {x}.shape[1] > 3 else -{x}
a loop over groups         | {s} = {g}                                                   | {y} = torch.cat([{t} * 0.5 for {t} in {x}.split({x}.shape[1] // {s}, 1)], 1)
scaled by the width        |                                                             | {y} = {x} * {x}.shape[1] ** -0.5
zeros of its shape         |                                                             | {y} = {x} + torch.zeros_like({x}) + {x}.new_ones({x}.shape)
zeros beside it            |                                                             | {y} = torch.cat([{x}, torch.zeros_like({x})], 1)
""",
)

TOKENS = [
    *_kinds(
        "map",
        "tokens",
        """
tokens                     |                                                             | {y} = {x}.flatten(2).transpose(1, 2)
tokens by a view           |                                                             | {y} = {x}.view(*{x}.shape[:2], -1).permute(0, 2, 1)
tokens, channels last      | {s} = nn.Linear({c}, {d})                                   | {y} = {s}({x}.movedim(1, -1)).flatten(1, 2)
""",
    ),
    *_kinds(
        "tokens",
        "tokens",
        """
linear                     | {s} = nn.Linear({c}, {d})                                   | {y} = {s}({x})
mlp                        | {s} = nn.Sequential(nn.LayerNorm({c}), nn.Linear({c}, {d}), nn.GELU(), nn.Linear({d}, {c})) | {y} = {x} + {s}({x})
layer norm                 | {s} = nn.LayerNorm({c})                                     | {y} = {s}({x})
layer norm, no bias        | {s} = nn.LayerNorm({c}, bias=False)                         | {y} = {s}({x})
layer norm as a function   |                                                             | {y} = F.layer_norm({x}, {x}.shape[-1:])
layer norm as a layer      | {s} = nn.LayerNorm({c})                                     | {y} = F.layer_norm({x}, ({x}.shape[-1],), {s}.weight, {s}.bias)
rms norm                   | {s} = nn.RMSNorm({c})                                       | {y} = {s}({x})
rms norm of one's own      | {s} = RMSLast({c})                                          | {y} = {s}({x})
layer norm, own scales     | {s} = ScaledLayerNorm({c})                                  | {y} = {s}({x})
adaptive layer norm        | {s} = ConditionalNorm({c}, {f})                             | {y} = {s}({x}, {v})
layer norm, a projection   | {s} = LayerNormThenMix({c}, {d})                            | {y} = {s}({x})
add and norm               | {s} = ResidualNorm({c})                                     | {y} = {s}({x}, {z})
batch norm of tokens       | {s} = nn.BatchNorm1d({c})                                   | {y} = {s}({x}.transpose(1, 2)).transpose(1, 2)
conv over tokens           | {s} = nn.Conv1d({c}, {c}, 3, padding=1, groups={c})         | {y} = {x} + {s}({x}.mT).mT
attention                  | {s} = Attention({c}, {g})                                   | {y} = {x} + {s}({x})
attention, fused           | {s} = Attention({c}, {g}, fused=True)                       | {y} = {x} + {s}({x})
attention, q norm          | {s} = Attention({c}, {g}, norm=True)                        | {y} = {s}({x})
cross attention            | {s} = CrossAttention({c}, {e}, {g})                         | {y} = {s}({x}, {w})
multi-head attention       | {s} = nn.MultiheadAttention({c}, {g}, batch_first=True)     | {y} = {x} + {s}({x}, {x}, {x}, need_weights=False)[0]
encoder, norm after        | {s} = nn.TransformerEncoderLayer({c}, {g}, {d}, 0.0, batch_first=True) | {y} = {s}({x})
encoder, norm before       | {s} = nn.TransformerEncoderLayer({c}, {g}, {d}, 0.0, batch_first=True, norm_first=True) | {y} = {s}({x})
one head by einsum         | {s}q, {s}k, {s}v = nn.Linear({c}, 4), nn.Linear({c}, 4), nn.Linear({c}, {d}) | {t} = torch.einsum("bnd,bmd->bnm", {s}q({x}), {s}k({x})).softmax(-1);; {y} = torch.einsum("bnm,bmd->bnd", {t}, {s}v({x}))
linear attention           | {s} = nn.Linear({c}, 3 * {c})                               | {t}q, {t}k, {t}v = {s}({x}).split({c}, -1);; {y} = {t}q @ ({t}k.transpose(1, 2) @ {t}v) * 0.02
swiglu                     | {s}a, {s}b = nn.Linear({c}, 2 * {d}), nn.Linear({d}, {c})   | {t}a, {t}b = {s}a({x}).chunk(2, -1);; {y} = {s}b(F.silu({t}a) * {t}b)
gate by unbind             | {s} = nn.Linear({c}, 2 * {c})                               | {t}a, {t}b = {s}({x}).view({x}.size(0), {x}.size(1), 2, -1).unbind(2);; {y} = {t}a * torch.sigmoid({t}b)
class token                | {s} = nn.Parameter(torch.rand(1, 1, {c}))                   | {y} = torch.cat([{s}.expand({x}.shape[0], -1, -1), {x}], 1)
class token, mean          |                                                             | {y} = torch.cat([{x}.mean(1, keepdim=True), {x}], dim=1)
tokens after the first     |                                                             | {y} = {x}[:, 1:]
position                   | {s} = nn.Parameter(torch.rand(1, {n}, {c}))                 | {y} = {x} + {s}
position by an index       | {s} = nn.Embedding({n}, {c})                                | {y} = {x} + {s}(torch.arange({x}.shape[1]))
position, two tables       | {s}a, {s}b = nn.Parameter(torch.rand({n}, {c})), nn.Parameter(torch.rand({c})) | {y} = {x} + {s}a[None] + {s}b
token mixing               | {s} = nn.Linear({n}, {n})                                   | {y} = {x} + {s}({x}.transpose(1, 2)).transpose(1, 2)
scale of tokens            | {s} = nn.Parameter(torch.rand({c}))                         | {y} = {x} * {s}
cat of tokens              |                                                             | {y} = torch.cat([{x}, {z}], 1)
cat of features            |                                                             | {y} = torch.cat([{x}, {w}], -1)
sum of tokens              |                                                             | {y} = {x} + {z}
rolled tokens              |                                                             | {y} = {x} + {x}.roll(1, 1)
causal mean                |                                                             | {t} = torch.ones({x}.shape[1], {x}.shape[1], dtype={x}.dtype).tril();; {y} = ({t} / {t}.sum(-1, keepdim=True)) @ {x}
rotated halves             |                                                             | {t}a, {t}b = {x}.chunk(2, -1);; {y} = {x} * 0.8 + torch.cat([-{t}b, {t}a], -1) * 0.6
rotated pairs              |                                                             | {y} = torch.stack([-{x}[..., 1::2], {x}[..., ::2]], -1).flatten(-2)
pooled by attention        | {s} = nn.Linear({c}, 2)                                     | {y} = {s}({x}).softmax(1).transpose(1, 2) @ {x}
recurrent                  | {s} = nn.GRU({c}, {d}, batch_first=True)                    | {y} = {s}({x})[0]
""",
    ),
    *_kinds(
        "tokens",
        "vector",
        """
mean of tokens             |                                                             | {y} = {x}.mean(1)
first token                |                                                             | {y} = {x}[:, 0]
largest of tokens          |                                                             | {y} = {x}.max(dim=1).values + {x}.amin(1)
sum of tokens, weighted    | {s} = nn.Linear({c}, 1)                                     | {y} = ({x} * {s}({x}).softmax(1)).sum(1)
""",
    ),
    *_kinds(
        "tokens",
        "row",
        """
tokens to a row            |                                                             | {y} = {x}.permute(0, 2, 1)
""",
    ),
]

VECTORS = [
    *_kinds(
        "map",
        "vector",
        """
mean of pixels             |                                                             | {y} = {x}.mean((2, 3))
pool and flatten           | {s} = nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten())  | {y} = {s}({x})
pool, squeeze              |                                                             | {y} = F.adaptive_avg_pool2d({x}, 1).squeeze(-1).squeeze(-1)
pool, index                |                                                             | {y} = {x}.amax((2, 3), keepdim=True)[:, :, 0, 0]
pool to four, flatten      | {s} = nn.Linear(4 * {c}, {d})                               | {y} = {s}(F.adaptive_avg_pool2d({x}, 2).reshape({x}.shape[0], -1))
mean and deviation         |                                                             | {y} = torch.cat([{x}.mean((2, 3)), {x}.std((2, 3))], 1)
pyramid                    | {s} = nn.Linear(5 * {c}, {d})                               | {y} = {s}(torch.cat([F.adaptive_max_pool2d({x}, {t}).flatten(1) for {t} in (1, 2)], 1))
all pixels, flatten        | {s} = nn.Linear({c} * {n}, {d})                             | {y} = {s}(torch.flatten({x}, 1))
norm of the pixels         |                                                             | {y} = {x}.flatten(2).norm(dim=-1) * 0.2
""",
    ),
    *_kinds(
        "vector",
        "vector",
        """
linear of a vector         | {s} = nn.Linear({c}, {d})                                   | {y} = {s}({x})
linear, called twice       | {s} = nn.Linear({c}, {c})                                   | {y} = {s}(F.relu({s}({x})))
linear of one's weight     | {s} = nn.Linear({c}, {d}, bias=False)                       | {y} = F.linear({x}, {s}.weight)
hidden layer               | {s} = nn.Sequential(nn.Linear({c}, {d}), nn.BatchNorm1d({d}), nn.ReLU(), nn.Linear({d}, {c})) | {y} = {x} + {s}({x})
batch norm of a vector     | {s} = nn.BatchNorm1d({c})                                   | {y} = {s}({x})
layer norm of a vector     | {s} = nn.LayerNorm({c})                                     | {y} = {s}({x})
cat of vectors             |                                                             | {y} = torch.cat([{x}, {w}], 1)
maxout                     |                                                             | {y} = {x}.view({x}.shape[0], -1, 2).amax(-1)
gated vector               | {s} = nn.Linear({c}, {c})                                   | {y} = {x} * torch.sigmoid({s}({x}))
product of vectors         |                                                             | {y} = {x} * {z}
unit length                |                                                             | {y} = F.normalize({x}, dim=-1)
bilinear                   | {s} = nn.Bilinear({c}, {e}, {d})                            | {y} = {s}({x}, {w})
outer product              | {s} = nn.Linear({c} * {c}, {d})                             | {y} = {s}(torch.bmm({x}.unsqueeze(2), {x}.unsqueeze(1)).flatten(1))
experts                    | {s} = nn.ModuleList(nn.Linear({c}, {d}) for _ in range(3));; {s}g = nn.Linear({c}, 3) | {t} = {s}g({x}).softmax(-1);; {y} = sum({t}[:, i, None] * one({x}) for i, one in enumerate({s}))
experts, stacked           | {s} = nn.ModuleList(nn.Linear({c}, {d}) for _ in range(3));; {s}g = nn.Linear({c}, 3) | {t} = torch.stack([one({x}) for one in {s}], -1);; {y} = ({t} @ {s}g({x}).softmax(-1).unsqueeze(-1)).squeeze(-1)
prototypes                 | {s} = nn.Parameter(torch.rand(5, {c}))                      | {y} = {x} @ {s}.t()
""",
    ),
    *_kinds(
        "vector",
        "map",
        """
vector to a map            | {s} = nn.Linear({c}, 9 * {d})                               | {y} = {s}({x}).view({x}.shape[0], -1, 3, 3)
vector as one pixel        |                                                             | {y} = {x}[:, :, None, None].expand(-1, -1, 3, 3)
""",
    ),
]

ROWS = [
    *_kinds("map", "row", """
a row of pixels            |                                                             | {y} = {x}.flatten(2)
columns                    |                                                             | {y} = {x}.mean(2)
"""),
    *_kinds("row", "row", """
conv1d                     | {s} = nn.Conv1d({c}, {d}, 3, padding=1)                     | {y} = {s}({x})
conv1d, grouped            | {s} = nn.Conv1d({c}, {k}, 3, padding=1, groups={g})         | {y} = {s}({x})
conv1d, depthwise          | {s} = nn.Conv1d({c}, {c}, 3, padding=1, groups={c})         | {y} = {x} + F.relu({s}({x}))
conv1d, causal             | {s} = nn.Conv1d({c}, {d}, 3, dilation=2)                    | {y} = {s}(F.pad({x}, (4, 0)))
transposed conv1d          | {s} = nn.ConvTranspose1d({c}, {d}, 3, padding=1)            | {y} = {s}({x})
batch norm 1d              | {s} = nn.BatchNorm1d({c})                                   | {y} = {s}({x})
group norm 1d              | {s} = nn.GroupNorm({g}, {c})                                | {y} = {s}({x})
pool 1d                    | {s} = nn.MaxPool1d(2)                                       | {y} = {s}({x})
wavenet gate               | {s} = nn.Conv1d({c}, 2 * {c}, 1)                            | {t}a, {t}b = torch.chunk({s}({x}), 2, 1);; {y} = {x} + torch.tanh({t}a) * torch.sigmoid({t}b)
sum of rows                |                                                             | {y} = {x} + {z}
"""),
    *_kinds("row", "vector", """
mean of a row              |                                                             | {y} = {x}.mean(-1)
last of a row              |                                                             | {y} = {x}[..., -1]
"""),
    *_kinds("map", "volume", """
two frames                 |                                                             | {y} = torch.stack([{x}, {z}], 2)
two frames of two convs    | {s}a, {s}b = nn.Conv2d({c}, {d}, 1), nn.Conv2d({c}, {d}, 1) | {y} = torch.stack([{s}a({x}), {s}b({x})], dim=2)
three frames               |                                                             | {y} = {x}.unsqueeze(2).repeat(1, 1, 3, 1, 1)
"""),
    *_kinds("volume", "volume", """
conv3d                     | {s} = nn.Conv3d({c}, {d}, 3, padding=1)                     | {y} = {s}({x})
conv3d, grouped            | {s} = nn.Conv3d({c}, {k}, 1, groups={g})                    | {y} = {s}({x})
conv3d, depthwise          | {s} = nn.Conv3d({c}, {c}, 3, padding=1, groups={c})         | {y} = {s}({x})
conv3d as a function       | {s} = nn.Conv3d({c}, {d}, 1)                                | {y} = F.conv3d({x}, {s}.weight, {s}.bias)
batch norm 3d              | {s} = nn.BatchNorm3d({c})                                   | {y} = F.relu({s}({x}))
max pool 3d                |                                                             | {y} = F.max_pool3d({x}, (1, 2, 2))
frame differences          |                                                             | {y} = {x}[:, :, 1:] - {x}[:, :, :-1] if {x}.shape[2] > 1 else {x}
"""),
    *_kinds("volume", "map", """
mean of frames             |                                                             | {y} = {x}.mean(2)
a frame                    |                                                             | {y} = {x}[:, :, -1]
frames as channels         |                                                             | {y} = {x}.flatten(1, 2)
frames in the batch        | {s} = nn.Conv2d({c}, {d}, 1)                                | {t} = {s}({x}.transpose(1, 2).flatten(0, 1));; {y} = {t}.view({x}.shape[0], -1, *{t}.shape[1:]).mean(1)
"""),
]  # fmt: skip

WILD = [
    *_kinds("map", "map", """
scaled by a layer's width  | {s} = nn.Conv2d({c}, {d}, 1)                                | {y} = {s}({x}) * {s}.out_channels ** -0.5
scaled by a weight's size  | {s} = nn.Conv2d({c}, {d}, 1)                                | {y} = {s}({x}) * {s}.weight.shape[1] ** -0.5
scaled by a weight's count | {s} = nn.Conv2d({c}, {d}, 1)                                | {y} = {s}({x}) / {s}.weight.numel()
view by a layer's width    | {s} = nn.Conv2d({c}, {d}, 1)                                | {t} = {s}({x});; {y} = {t}.view({t}.shape[0], {s}.out_channels, -1).view_as({t}) * 2
view by a weight's size    | {s} = nn.Conv2d({c}, {d}, 1)                                | {t} = {s}({x});; {y} = {t}.reshape({t}.shape[0], {s}.weight.shape[0], *{t}.shape[2:]) + 1
view by a bias' length     | {s} = nn.Conv2d({c}, {d}, 1)                                | {t} = {s}({x});; {y} = {t}.reshape(-1, len({s}.bias), {t}.shape[2], {t}.shape[3]) + 1
a branch on a layer        | {s} = nn.Conv2d({c}, {c}, 1)                                | {y} = {s}({x}) if {s}.in_channels == {x}.shape[1] else {x}
slimmable conv             | {s} = nn.Conv2d({c} + 2, {d}, 1)                            | {y} = F.conv2d({x}, {s}.weight[:, :{x}.shape[1]], {s}.bias)
slimmable scale            | {s} = nn.Parameter(torch.rand({c} + 2, 1, 1))               | {y} = {x} * {s}[:{x}.shape[1]]
two kernels, summed        | {s}a, {s}b = nn.Conv2d({c}, {d}, 1, bias=False), nn.Conv2d({c}, {d}, 1) | {y} = F.conv2d({x}, {s}a.weight + {s}b.weight, {s}b.bias)
scaled kernel              | {s}, {s}g = nn.Conv2d({c}, {d}, 1), nn.Parameter(torch.rand({d})) | {y} = F.conv2d({x}, {s}.weight * {s}g.view(-1, 1, 1, 1), {s}.bias)
spectral norm              | {s} = nn.utils.parametrizations.spectral_norm(nn.Conv2d({c}, {d}, 1)) | {y} = {s}({x})
tied decoder               | {s} = nn.Conv2d({c}, {d}, 1)                                | {y} = F.conv2d(torch.tanh({s}({x})), {s}.weight.transpose(0, 1))
low-rank addition          | {s}, {s}a, {s}b = nn.Linear({c}, {d}), nn.Parameter(torch.rand({c}, 2)), nn.Parameter(torch.rand(2, {d})) | {t} = {x}.movedim(1, -1);; {y} = ({s}({t}) + {t} @ {s}a @ {s}b).movedim(-1, 1)
blur                       | self.register_buffer("b{i}", torch.ones(1, 1, 3, 3) / 9)    | {y} = F.conv2d({x}, self.b{i}.expand({x}.shape[1], 1, 3, 3), padding=1, groups={x}.shape[1])
blur, repeated             | self.register_buffer("b{i}", torch.rand(1, 1, 3, 3))        | {y} = F.conv2d({x}, self.b{i}.repeat({x}.size(1), 1, 1, 1), padding=1, groups={x}.size(1))
blur in the batch          | self.register_buffer("b{i}", torch.rand(1, 1, 3, 3))        | {t} = {x}.shape;; {y} = F.conv2d({x}.reshape({t}[0] * {t}[1], 1, {t}[2], {t}[3]), self.b{i}, padding=1).view({t})
a layer for each channel   | {s} = nn.Conv2d(1, 1, 3, padding=1)                         | {t} = {x}.flatten(0, 1).unsqueeze(1);; {y} = {s}({t}).view({x}.shape[0], -1, *{x}.shape[2:])
computed kernels           | {s} = nn.Linear({c}, {c} * 9)                               | {t} = {s}({x}.mean((2, 3))).view(-1, 1, 3, 3);; {y} = F.conv2d({x}.reshape(1, -1, *{x}.shape[2:]), {t}, padding=1, groups={t}.shape[0]).view_as({x})
experts of kernels         | {s}, {s}g = nn.Parameter(torch.rand(2, {d}, {c}, 1, 1)), nn.Linear({c}, 2) | {t} = {s}g({x}.mean((0, 2, 3))).softmax(-1);; {y} = F.conv2d({x}, ({s} * {t}.view(-1, 1, 1, 1, 1)).sum(0))
einsum scale               | {s} = nn.Parameter(torch.rand({c}))                         | {y} = torch.einsum("bchw,c->bchw", {x}, {s})
scales, concatenated       | {s}a, {s}b = nn.Parameter(torch.rand(2)), nn.Parameter(torch.rand({c} - 2)) | {y} = {x} * torch.cat([{s}a, {s}b]).view(-1, 1, 1)
scales, stacked            | {s}a, {s}b = nn.Parameter(torch.rand({c})), nn.Parameter(torch.rand({c})) | {y} = {x} * torch.stack([{s}a, {s}b]).mean(0)[:, None, None]
scale and shift, a table   | {s} = nn.Parameter(torch.rand(2, {c}, 1, 1))                | {y} = {x} * {s}[0] + {s}[1]
scale and shift, unbound   | {s} = nn.Parameter(torch.rand(2, {c}))                      | {t}a, {t}b = {s}.unbind(0);; {y} = {x} * {t}a[:, None, None] + {t}b.view(1, -1, 1, 1)
a row of a table           | {s} = nn.Embedding(3, {c})                                  | {y} = {x} + {s}.weight[1].view(1, -1, 1, 1)
an embedding of a class    | {s} = nn.Embedding(3, {c})                                  | {y} = {x} * {s}(torch.zeros({x}.shape[0], dtype=torch.long))[:, :, None, None]
coordinates                | {s} = nn.Conv2d({c} + 2, {d}, 1)                            | {t} = torch.ones({x}.shape[0], 2, *{x}.shape[2:], dtype={x}.dtype);; {y} = {s}(torch.cat([{x}, {t}.cumsum(2)], 1))
coordinate attention       | {s}a, {s}b, {s}c = nn.Conv2d({c}, 4, 1), nn.Conv2d(4, {c}, 1), nn.Conv2d(4, {c}, 1) | {t}h, {t}w = {x}.shape[2:];; {t} = {s}a(torch.cat([{x}.mean(3, keepdim=True), {x}.mean(2, keepdim=True).transpose(2, 3)], 2));; {t}a, {t}b = {t}.split([{t}h, {t}w], 2);; {y} = {x} * torch.sigmoid({s}b({t}a)) * torch.sigmoid({s}c({t}b.transpose(2, 3)))
split attention            | {s} = nn.Conv2d({c}, 2 * {d}, 1, groups=2) if {c} % 2 == 0 else nn.Conv2d({c}, 2 * {d}, 1);; {s}w = nn.Linear({d}, 2 * {d}) | {t} = {s}({x});; {t} = {t}.view({t}.shape[0], 2, -1, *{t}.shape[2:]);; {t}w = {s}w({t}.sum(1).mean((2, 3))).view({t}.shape[0], 2, -1).softmax(1);; {y} = ({t} * {t}w[..., None, None]).sum(1)
involution                 | {s} = nn.Conv2d({c}, 9, 1)                                  | {t} = F.unfold({x}, 3, padding=1).view({x}.shape[0], {x}.shape[1], 9, *{x}.shape[2:]);; {y} = ({t} * {s}({x}).unsqueeze(1)).sum(2)
cascade of a split         | {s} = nn.Conv2d({c}, 8, 1);; {s}c = nn.ModuleList(nn.Conv2d(2, 2, 3, padding=1) for _ in range(3)) | {t} = {s}({x}).split(2, 1);; {t}r = [{t}[0]];; for i, one in enumerate({s}c): {t}r.append(one({t}[i + 1] + {t}r[-1]));; {y} = torch.cat({t}r, 1)
cascade of chunks          | {s} = nn.Conv2d({c}, 4 * {d}, 1);; {s}c = nn.ModuleList(nn.Conv2d({d}, {d}, 3, padding=1) for _ in range(3)) | {t} = {s}({x}).chunk(4, 1);; {t}r = [{t}[0]];; for i, one in enumerate({s}c): {t}r.append(one({t}[i + 1] + {t}r[-1]));; {y} = torch.cat({t}r, 1)
reversible                 | {s}, {s}a, {s}b = nn.Conv2d({c}, 2 * {d}, 1), nn.Conv2d({d}, {d}, 1), nn.Conv2d({d}, {d}, 1) | {t}a, {t}b = {s}({x}).chunk(2, 1);; {t}a = {t}a + {s}a({t}b);; {t}b = {t}b + {s}b({t}a);; {y} = torch.cat([{t}a, {t}b], 1)
affine coupling            | {s}, {s}a = nn.Conv2d({c}, 2 * {d}, 1), nn.Conv2d({d}, 2 * {d}, 1) | {t}a, {t}b = {s}({x}).chunk(2, 1);; {t}s, {t}t = {s}a({t}a).chunk(2, 1);; {y} = torch.cat([{t}a, {t}b * torch.sigmoid({t}s) + {t}t], 1)
recurrent conv             | {s}a, {s}b = nn.Conv2d({c}, {d}, 1), nn.Conv2d({d}, {d}, 3, padding=1) | {t} = {s}a({x});; {t}h = torch.zeros_like({t});; for _ in range(3): {t}h = torch.tanh({t} + {s}b({t}h));; {y} = {t}h
recurrent conv, zeros      | {s}a, {s}b = nn.Conv2d({c}, {d}, 1), nn.Conv2d({d}, {d}, 1) | {t} = {s}a({x});; {t}h = torch.zeros({t}.shape, dtype={t}.dtype);; for _ in range(2): {t}h = torch.tanh({t} + {s}b({t}h));; {y} = {t}h
gated recurrence           | {s}, {s}h = nn.Conv2d({c}, 3 * {d}, 1), nn.Conv2d({d}, 3 * {d}, 1) | {t}r, {t}z, {t}n = {s}({x}).chunk(3, 1);; {t}h = torch.tanh({t}n);; {t}a, {t}b, {t}c = {s}h({t}h).chunk(3, 1);; {t}z = torch.sigmoid({t}z + {t}b);; {y} = {t}z * {t}h + (1 - {t}z) * torch.tanh({t}n + torch.sigmoid({t}r + {t}a) * {t}c)
highway                    | {s} = nn.Conv2d({c}, 2 * {c}, 1)                            | {t}h, {t}g = torch.split({s}({x}), {x}.shape[1], dim=1);; {t}g = {t}g.sigmoid();; {y} = {t}h * {t}g + {x} * (1 - {t}g)
pyramid pooling            | {s} = nn.ModuleList(nn.Conv2d({c}, 4, 1) for _ in range(2)) | {y} = torch.cat([{x}] + [F.interpolate(one(F.adaptive_avg_pool2d({x}, i + 1)), {x}.shape[-2:], mode="bilinear", align_corners=False) for i, one in enumerate({s})], dim=1)
top-down sum               | {s} = nn.Conv2d({c}, {c}, 3, stride=2, padding=1)           | {y} = {x} + F.interpolate({s}({x}), size={x}.shape[-2:], mode="nearest")
attention of a group       | {s} = nn.GroupNorm(1, {c} // {g})                           | {t} = {x}.reshape({x}.shape[0] * {g}, -1, *{x}.shape[2:]);; {y} = ({s}({t}) * torch.sigmoid({t}.mean(1, keepdim=True))).reshape({x}.shape)
sums of neighbours         |                                                             | {y} = {x}.clone();; {y}[:, 1:] += {x}[:, :-1]
in place on half of it     |                                                             | {y} = {x} * 1;; {y}[:, : {y}.shape[1] // 2].relu_()
in place through a view    |                                                             | {y} = ({x} * 1).contiguous();; {y}.view({y}.shape[0], {y}.shape[1], -1).mul_(0.5).add_(1)
in place, transposed       |                                                             | {y} = {x} * 1;; {y}.transpose(1, 2).add_({z}.transpose(1, 2))
in place on chunks         | {s} = nn.Conv2d({c}, 3 * {d}, 1)                            | {y} = {s}({x});; for {t} in {y}.chunk(3, 1): {t}.sigmoid_()
in place on one of chunks  | {s} = nn.Conv2d({c}, 2 * {d}, 1)                            | {y} = {s}({x});; {y}.chunk(2, 1)[0].mul_({y}.chunk(2, 1)[1].tanh())
in place, unbound          | {s} = nn.Conv2d({c}, {d}, 1)                                | {y} = torch.stack([{s}({x}), {s}({x})], 1);; {t}a, {t}b = {y}.unbind(1);; {t}a.add_({t}b).clamp_(-3, 3);; {y} = {y}.mean(1)
copied into zeros          |                                                             | {y} = {x}.new_zeros({x}.shape);; {y}.copy_({x})
copied into an empty one   | {s} = nn.Conv2d({c}, {c}, 1)                                | {y} = torch.empty_like({x});; {y}[:] = {s}({x})
written beside each other  |                                                             | {y} = {x}.new_empty({x}.shape[0], 2 * {x}.shape[1], *{x}.shape[2:]);; {y}[:, :{x}.shape[1]] = {x};; {y}[:, {x}.shape[1]:] = {z}
out of an addition         |                                                             | {y} = torch.empty_like({x});; torch.add({x}, {z}, out={y})
accumulated                | {s} = nn.ModuleList(nn.Conv2d({c}, {d}, 1) for _ in range(3)) | {y} = {s}[0]({x});; for {t} in {s}[1:]: {y} += {t}({x})
accumulated into zeros     | {s} = nn.ModuleList(nn.Conv2d({c}, {d}, 1) for _ in range(2)) | {y} = 0;; for {t} in {s}: {y} = {y} + {t}({x})
masked in place            |                                                             | {y} = {x} * 1;; {y}[{y} < 0] = 0.1
largest channels           |                                                             | {y} = {x}.topk(3, dim=1).values
sorted channels            |                                                             | {y} = {x}.sort(1)[0]
gathered                   |                                                             | {y} = {x}.gather(1, {x}.argmax(1, keepdim=True)) + {x}
median of pixels           |                                                             | {y} = {x} - {x}.flatten(2).contiguous().median(-1).values[..., None, None]
sampled on a grid          |                                                             | {t} = F.affine_grid(torch.eye(2, 3, dtype={x}.dtype).expand({x}.shape[0], 2, 3), {x}.shape, align_corners=False);; {y} = F.grid_sample({x}, {t}, align_corners=False)
fourier                    |                                                             | {y} = torch.fft.rfft2({x}).abs()[..., :3] * 0.1
pool layers                | {s} = nn.Sequential(nn.AvgPool2d(3, 1, 1), nn.LPPool2d(2, 2, 1), nn.Softplus()) | {y} = {s}({x})
softmax layers             | {s}a, {s}b = nn.Softmax2d(), nn.Softmin(dim=-1)             | {y} = {s}a({x}) + {s}b({x})
glu layer                  | {s} = nn.Sequential(nn.Conv2d({c}, 2 * {d}, 1), nn.GLU(1))  | {y} = {s}({x})
checkpointed               | {s} = nn.Conv2d({c}, {d}, 1)                                | {y} = torch.utils.checkpoint.checkpoint({s}, {x}, use_reentrant=False)
a function of one's own    |                                                             | {y} = OwnSwish.apply({x})
a layer by its name        | {s} = nn.ModuleDict({{"one": nn.Conv2d({c}, {d}, 1), "two": nn.ReLU()}}) | {y} = {s}["two"]({s}["one"]({x}))
layers that give pairs     | {s} = GivesPairs({c}, {d})                                  | {t} = {s}({x});; {y} = {t}["out"] + {t}["parts"][0]
a keyword                  | {s} = nn.Conv2d({c}, {d}, 1)                                | {y} = {s}(input={x})
to a type and back         | {s} = nn.Conv2d({c}, {d}, 1)                                | {y} = {s}({x}.to({s}.weight.dtype)).double().type_as({x})
the same norm twice        | {s} = nn.LayerNorm({c})                                     | {t} = {x}.permute(0, 2, 3, 1);; {y} = ({s}({t}) + {s}(torch.tanh({t}))).permute(0, 3, 1, 2)
the same norm on two       | {s} = nn.BatchNorm2d({c})                                   | {y} = {s}({x}) + {s}({z})
own norm on two            | {s} = LayerNormByHand({c})                                  | {y} = {s}({x}) * torch.tanh({s}({z}))
norm with another's weight | {s}a, {s}b = nn.BatchNorm2d({c}), nn.BatchNorm2d({c});; {s}b.weight = {s}a.weight | {y} = {s}a({x}) + {s}b({z})
batch norm, then a conv    | {s} = BatchNormThenMix({c}, {d})                            | {y} = {s}({x})
spatially adaptive norm    | {s} = SpatiallyAdaptive({c}, {e})                           | {y} = {s}({x}, {w})
own norm over all          | {s} = NormOverAll({c})                                      | {y} = {s}({x})
own norm and its input     | {s} = NormAndInput({c})                                     | {y} = {s}({x})
own norm, a pair           | {s} = NormPair({c})                                         | {t}, {t}b = {s}({x});; {y} = {t} * torch.sigmoid({t}b)
own norm, pooled           | {s} = NormPooled({c})                                       | {y} = {x} * {s}({x})
own norm in place          | {s} = NormInPlace({c})                                      | {y} = {s}({x} * 1)
own norm, kept statistics  | {s} = KeepsVariance({c})                                    | {y} = {s}({x})
own norm, number of groups | {s} = OwnGroupNorm({g}, {c})                                | {y} = {s}({x})
own norm, its width        | {s} = KnowsWidth({c})                                       | {y} = {s}({x})
own instance norm          | {s} = OwnInstanceNorm({c})                                  | {y} = {s}({x})
quotients of the width     |                                                             | {t} = {x}.shape[1] - {x}.shape[1] // 2;; {y} = torch.cat([{x}[:, :{t}], -{x}[:, {t}:]], 1)
rounded width              |                                                             | {t} = max(2, int({x}.shape[1] * 0.5));; {y} = {x}[:, :{t}]
sum of sizes               |                                                             | {t} = torch.cat([{x}, {w}], 1);; {t}a, {t}b = {t}.split([{x}.shape[1], {w}.shape[1]], 1);; {y} = {t}a * 2
view of two widths         |                                                             | {t} = torch.cat([{x}, {z}], 1);; {y} = {t}.view({x}.shape[0], 2, {x}.shape[1], *{x}.shape[2:]).sum(1)
view of the whole          |                                                             | {y} = {x}.reshape({x}.shape[0], -1).view({x}.shape[0], {x}.shape[1], {x}.shape[2], -1)
view into the batch        | {s} = nn.Conv2d({c}, {d}, 1)                                | {y} = {s}({x}.view(-1, {x}.shape[1], *{x}.shape[2:]))
channels to height         | {s} = nn.Conv2d({c}, {c}, 1)                                | {t} = {s}({x});; {y} = {t}.view({t}.shape[0], 2, -1, *{t}.shape[2:]).transpose(1, 2).flatten(2, 3)
pixels of both, flattened  | {s} = nn.Linear({n}, {n})                                   | {y} = {s}({x}.flatten(2)).view_as({x})
"""),
    *_kinds("tokens", "tokens", """
many queries, one key      | {s}q, {s}k, {s}v, {s}o = nn.Linear({c}, {c}), nn.Linear({c}, {c} // {g}), nn.Linear({c}, {c} // {g}), nn.Linear({c}, {c}) | {t}q = {s}q({x}).unflatten(-1, ({g}, -1)).transpose(1, 2);; {t} = F.scaled_dot_product_attention({t}q, {s}k({x}).unsqueeze(1), {s}v({x}).unsqueeze(1));; {y} = {s}o({t}.transpose(1, 2).flatten(2))
grouped queries            | {s}q, {s}k, {s}v, {s}o = nn.Linear({c}, 8), nn.Linear({c}, 4), nn.Linear({c}, 4), nn.Linear(8, {c}) | {t}q = {s}q({x}).view(*{x}.shape[:2], 4, 2).transpose(1, 2);; {t}k, {t}v = (one({x}).view(*{x}.shape[:2], 2, 2).transpose(1, 2).repeat_interleave(2, 1) for one in ({s}k, {s}v));; {y} = {s}o(F.scaled_dot_product_attention({t}q, {t}k, {t}v).transpose(1, 2).flatten(2))
heads by an einsum         | {s}, {s}o = nn.Linear({c}, 3 * {c}), nn.Linear({c}, {c});; {s}h = {g} | {t}q, {t}k, {t}v = {s}({x}).view(*{x}.shape[:2], 3, {s}h, -1).unbind(2);; {t} = torch.einsum("bnhd,bmhd->bhnm", {t}q, {t}k).softmax(-1);; {y} = {s}o(torch.einsum("bhnm,bmhd->bnhd", {t}, {t}v).flatten(2))
talking heads              | {s}, {s}t, {s}o = nn.Linear({c}, 3 * {c}), nn.Linear({g}, {g}), nn.Linear({c}, {c});; {s}h = {g} | {t}q, {t}k, {t}v = {s}({x}).reshape(*{x}.shape[:2], 3, {s}h, -1).permute(2, 0, 3, 1, 4);; {t} = {s}t(({t}q @ {t}k.transpose(-2, -1)).permute(0, 2, 3, 1)).permute(0, 3, 1, 2).softmax(-1);; {y} = {s}o(({t} @ {t}v).transpose(1, 2).flatten(2))
attention, bias of heads   | {s}, {s}o, {s}b = nn.Linear({c}, 3 * {c}), nn.Linear({c}, {c}), nn.Parameter(torch.rand({g}, 1, 1));; {s}h = {g} | {t}q, {t}k, {t}v = {s}({x}).reshape(*{x}.shape[:2], 3, {s}h, -1).permute(2, 0, 3, 1, 4);; {t} = ({t}q @ {t}k.transpose(-2, -1) * {s}b + {s}b).softmax(-1);; {y} = {s}o(({t} @ {t}v).transpose(1, 2).reshape({x}.shape))
cosine attention           | {s}, {s}o, {s}b = nn.Linear({c}, 3 * {c}), nn.Linear({c}, {c}), nn.Parameter(torch.rand({g}, 1, 1));; {s}h = {g} | {t}q, {t}k, {t}v = {s}({x}).reshape(*{x}.shape[:2], 3, {s}h, -1).permute(2, 0, 3, 1, 4);; {t} = (F.normalize({t}q, dim=-1) @ F.normalize({t}k, dim=-1).transpose(-2, -1) * {s}b.exp()).softmax(-1);; {y} = {s}o(({t} @ {t}v).transpose(1, 2).flatten(2))
attention over features    | {s}, {s}o = nn.Linear({c}, 3 * {c}), nn.Linear({c}, {c});; {s}h = {g} | {t}q, {t}k, {t}v = {s}({x}).reshape(*{x}.shape[:2], 3, {s}h, -1).permute(2, 0, 3, 4, 1).unbind(0);; {t} = (F.normalize({t}q, dim=-1) @ F.normalize({t}k, dim=-1).transpose(-2, -1)).softmax(-1);; {y} = {s}o(({t} @ {t}v).permute(0, 3, 1, 2).reshape({x}.shape))
causal attention           | {s} = nn.MultiheadAttention({c}, {g}, batch_first=True)     | {t} = torch.ones({x}.shape[1], {x}.shape[1], dtype=torch.bool).triu(1);; {y} = {s}({x}, {x}, {x}, attn_mask={t})[0]
attention, its weights     | {s} = nn.MultiheadAttention({c}, {g}, batch_first=True)     | {t}, {t}w = {s}({x}, {x}, {x});; {y} = {t} + {t}w @ {x}
attention, batch second    | {s} = nn.MultiheadAttention({c}, {g})                       | {t} = {x}.transpose(0, 1);; {y} = {s}({t}, {t}, {t})[0].transpose(0, 1)
attention of two           | {s} = nn.MultiheadAttention({c}, {g}, batch_first=True)     | {y} = {x} + {s}({x}, {z}, {z})[0]
attention, other keys      | {s} = nn.MultiheadAttention({c}, {g}, batch_first=True, kdim={e}, vdim={e}) | {y} = {s}({x}, {w}, {w})[0]
a stack of encoders        | {s} = nn.TransformerEncoder(nn.TransformerEncoderLayer({c}, {g}, {d}, 0.0, batch_first=True), 2, enable_nested_tensor=False) | {y} = {s}({x})
a decoder                  | {s} = nn.TransformerDecoderLayer({c}, {g}, {d}, 0.0, batch_first=True) | {y} = {s}({x}, {z})
latents                    | {s}, {s}a = nn.Parameter(torch.rand(1, 3, {c})), CrossAttention({c}, {c}, {g}) | {y} = {s}a({s}.expand({x}.shape[0], -1, -1), {x})
two tokens                 | {s}a, {s}b = nn.Parameter(torch.rand(1, 1, {c})), nn.Parameter(torch.rand(1, 1, {c})) | {y} = torch.cat(({s}a.expand({x}.shape[0], -1, -1), {x}, {s}b.expand({x}.shape[0], -1, -1)), dim=1)
tokens, replaced           | {s} = nn.Parameter(torch.rand({c}))                         | {y} = {x}.clone();; {y}[:, ::2] = {s}
a token, repeated          | {s} = nn.Parameter(torch.rand(1, 1, {c}))                   | {y} = torch.cat([{s}.repeat({x}.size(0), 1, 1), {x}], 1)
spatial gating             | {s}, {s}n, {s}p, {s}o = nn.Linear({c}, 2 * {d}), nn.LayerNorm({d}), nn.Linear({n}, {n}), nn.Linear({d}, {c}) | {t}a, {t}b = {s}({x}).chunk(2, dim=-1);; {t}b = {s}p({s}n({t}b).transpose(1, 2)).transpose(1, 2);; {y} = {s}o({t}a * {t}b)
mean of all, gated         | {s}q, {s}k, {s}v = nn.Linear({c}, {d}), nn.Linear({c}, {d}), nn.Linear({c}, {d}) | {t} = {s}k({x}).exp().clamp(max=9);; {y} = torch.sigmoid({s}q({x})) * ({t} * {s}v({x})).sum(1, keepdim=True) / {t}.sum(1, keepdim=True)
scan                       | {s} = nn.Linear({c}, {c})                                   | {t} = torch.zeros_like({x}[:, 0]);; {t}r = [];; for {t}x in {x}[:, :4].unbind(1): {t} = torch.tanh({s}({t}) + {t}x); {t}r.append({t});; {y} = torch.stack({t}r, 1)
pairs of tokens            | {s} = nn.Linear({c}, {d})                                   | {t} = {s}({x}[:, :3]);; {y} = F.relu({t}.unsqueeze(1) - {t}.unsqueeze(2)).flatten(1, 2)
rotary                     |                                                             | {t} = torch.arange({x}.shape[1] * ({x}.shape[2] // 2), dtype={x}.dtype).view({x}.shape[1], -1);; {t}a, {t}b = {x}.chunk(2, -1);; {y} = torch.cat([{t}a * {t}.cos() - {t}b * {t}.sin(), {t}a * {t}.sin() + {t}b * {t}.cos()], -1)
linear by its weight       | {s} = nn.Linear({c}, {d})                                   | {y} = {x} @ {s}.weight.t() + {s}.bias
linear, addmm              | {s} = nn.Linear({c}, {d})                                   | {y} = torch.addmm({s}.bias, {x}.flatten(0, 1), {s}.weight.t()).view(*{x}.shape[:2], -1)
heads' own projection      | {s} = nn.Parameter(torch.rand({g}, {c}, 4) - 0.5)           | {y} = torch.einsum("bnc,gcd->bngd", {x}, {s}).flatten(2)
the memory of a table      | {s} = nn.Embedding(5, {c})                                  | {y} = ({x} @ {s}.weight.t()).softmax(-1) @ {s}.weight
norm by one's own function |                                                             | {y} = ({x} - {x}.mean(-1, keepdim=True)) / {x}.var(-1, keepdim=True, unbiased=False).add(1e-5).sqrt()
adaptive norm, six         | {s}, {s}n, {s}m = nn.Linear({f}, 3 * {c}), nn.LayerNorm({c}, elementwise_affine=False), nn.Linear({c}, {c}) | {t}a, {t}b, {t}c = {s}({v})[:, None].chunk(3, dim=-1);; {y} = {x} + {t}c * {s}m({s}n({x}) * (1 + {t}a) + {t}b)
"""),
    *_kinds("vector", "vector", """
length of the vector       |                                                             | {y} = {x} * {x}.shape[-1] ** -0.5
squash                     |                                                             | {t} = {x}.square().sum(-1, keepdim=True);; {y} = {x} * {t} / (1 + {t})
softmax of a vector        | {s} = nn.LogSoftmax(-1)                                     | {y} = {s}({x}) + {x}.softmax(1)
similarities               | {s} = nn.Parameter(torch.rand(5, {c}))                      | {y} = F.linear(F.normalize({x}), F.normalize({s}))
distances                  | {s} = nn.Parameter(torch.rand(5, {c}))                      | {y} = torch.cdist({x}, {s})
weights, multiplied        | {s}a, {s}b = nn.Linear({c}, {d}), nn.Linear({d}, {c})       | {y} = F.linear({x}, {s}b.weight @ {s}a.weight)
one of the outputs         | {s} = nn.Linear({c}, 1)                                     | {y} = {x} * {s}({x}).squeeze(-1)[:, None]
split of a vector          | {s} = nn.Linear({c}, 2 * {d})                               | {t}a, {t}b = {s}({x}).unflatten(1, (2, -1)).unbind(1);; {y} = {t}a + torch.exp(-{t}b.square())
compact bilinear           | {s}a, {s}b = nn.Linear({c}, {d}), nn.Linear({e}, {d})       | {y} = {s}a({x}) * {s}b({w})
dot of two                 |                                                             | {y} = {x} * ({x} * {z}).sum(1, keepdim=True)
a batch of one             | {s} = nn.Linear({c}, {d})                                   | {y} = torch.stack([{s}(one) for one in {x}.unbind(0)])
"""),
]  # fmt: skip

KINDS = (*LAYERS, *NORMS, *POINTWISE, *SHAPES, *TOKENS, *VECTORS, *ROWS, *WILD)
