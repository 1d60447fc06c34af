"""Lite-Mono, MSF, learned intrinsics, adapters and DPT equal a second implementation that is written as formulas.

Plain functions of our state dict, in float64. Every parameter is drawn, those that start at 0, 1 or 1e-6 included.
"""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

import models_zoo
from models_zoo.adapters import merge
from tests.models_zoo.reference import block, conv, reflect, under, up2

TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5}
CODE = {torch.float64: 1e-6, torch.float32: 2e-5}  # after the sines and cosines of Lite-Mono, always of float32
GREY = {"mean": [0.45] * 3, "std": [0.225] * 3}
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
LITEMONO = {  # channels, blocks per stage
    "litemono": ((48, 80, 128), (4, 4, 10)),
    "litemono_small": ((48, 80, 128), (4, 4, 7)),
    "litemono_tiny": ((32, 64, 128), (4, 4, 7)),
    "litemono_8m": ((64, 128, 224), (4, 4, 10)),
}
bilinear2 = partial(F.interpolate, scale_factor=2, mode="bilinear", align_corners=False)


def create(kind, **options):
    """A network in float64 of which nothing is left as it starts."""
    net = models_zoo.create(kind, pretrained=False, **options).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if value.is_floating_point():
                noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
                if value.ndim > 1 and "temperature" not in name:
                    value.copy_(noise / math.sqrt(value[0].numel()))
                elif name.endswith(("running_var", "temperature", "norm.weight", "bn.weight", "bn1.weight")):
                    value.copy_(noise.abs() + 0.5)
                else:
                    value.copy_(0.3 * noise)
    return net


def rand(*shape, seed=1):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@torch.no_grad()
def outputs(net, x):
    """What the network makes of images, or of a list of maps, in float64 and then in float32."""
    return net(x), net.float()([m.float() for m in x] if isinstance(x, list) else x.float())


def standardised(x, mean, std):
    """(x - mean) / std with statistics of float32, as buffers hold them."""
    mean, std = (torch.tensor(v * (x.shape[1] // 3), dtype=torch.float32).double()[:, None, None] for v in (mean, std))
    return (x - mean) / std


def agree(ours, theirs, tolerance=TOLERANCE):
    assert ours.shape == theirs.shape
    assert theirs.std() > 1e-3  # a comparison of constants would say nothing
    bound = tolerance[ours.dtype]
    torch.testing.assert_close(ours.double(), theirs, rtol=bound, atol=bound)


# Lite-Mono, arXiv:2211.13202


def linear(s, p, x):
    return x @ s[f"{p}.weight"].T + s[f"{p}.bias"]


def layer_norm(s, p, t, eps=1e-6):
    centred = t - t.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * s[f"{p}.weight"] + s[f"{p}.bias"]


def gelu(x):
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def batch_norm(s, p, x, training, eps=1e-5):
    mean, var = s[f"{p}.running_mean"], s[f"{p}.running_var"]
    if training:
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    x = (x - mean[:, None, None]) / (var[:, None, None] + eps).sqrt()
    return x * s[f"{p}.weight"][:, None, None] + s[f"{p}.bias"][:, None, None]


def mlp(s, p, t):
    return s[f"{p}.gamma"] * linear(s, f"{p}.pwconv2", gelu(linear(s, f"{p}.pwconv1", t)))


def local_block(s, p, x, dilation, training):
    y = F.conv2d(x, s[f"{p}.ddwconv.conv.weight"], padding=dilation, dilation=dilation, groups=x.shape[1])
    y = batch_norm(s, f"{p}.bn1", y, training).permute(0, 2, 3, 1)
    return x + mlp(s, p, y).permute(0, 3, 1, 2)


def position_code(h, w):
    """Sine and cosine of 32 frequencies of the row, then of the column: (h w 64)."""

    def waves(n):
        places = torch.arange(1, n + 1).double() / (n + 1e-6) * 2 * math.pi
        angles = [places / 10000 ** (2 * (j // 2) / 32) for j in range(32)]
        return torch.stack([a.cos() if j % 2 else a.sin() for j, a in enumerate(angles)], -1)

    return torch.cat([waves(h)[:, None].expand(h, w, 32), waves(w)[None].expand(h, w, 32)], -1)


def cross_covariance_attention(s, p, t, heads=8):
    b, n, c = t.shape
    qkv = linear(s, f"{p}.qkv", t).reshape(b, n, 3, heads, c // heads)
    q, k, v = (part.permute(0, 2, 3, 1) for part in qkv.unbind(2))  # (b heads c/heads n)
    q, k = (x / x.norm(dim=-1, keepdim=True).clamp_min(1e-12) for x in (q, k))
    a = torch.softmax(q @ k.transpose(-1, -2) * s[f"{p}.temperature"], -1)
    return linear(s, f"{p}.proj", (a @ v).permute(0, 3, 1, 2).reshape(b, n, c))


def global_block(s, p, x, with_position):
    b, c, h, w = x.shape
    t = x
    if with_position:
        t = t + conv(s, f"{p}.pos_embd.token_projection", position_code(h, w).permute(2, 0, 1)[None])
    t = t.flatten(2).transpose(1, 2)
    t = t + s[f"{p}.gamma_xca"] * cross_covariance_attention(s, f"{p}.xca", layer_norm(s, f"{p}.norm_xca", t))
    return x + mlp(s, p, layer_norm(s, f"{p}.norm", t)).transpose(1, 2).reshape(b, c, h, w)


def litemono_encoder(s, x, blocks, dilations, training):
    pooled = [x]  # of stride 1, 2, 4, 8
    for _ in range(3):
        pooled.append(F.avg_pool2d(pooled[-1], 3, 2, 1, count_include_pad=True))
    for j, stride in enumerate((2, 1, 1)):
        p = f"downsample_layers.0.{j}"
        x = F.conv2d(x, s[f"{p}.conv.weight"], stride=stride, padding=1)
        x = gelu(batch_norm(s, f"{p}.bn_gelu.bn", x, training))
    x = F.conv2d(torch.cat([x, pooled[1]], 1), s["stem2.0.conv.weight"], stride=2, padding=1)
    feats = []
    for i, (n, ds) in enumerate(zip(blocks, dilations, strict=True)):
        start = x
        for j, d in enumerate(ds):
            x = local_block(s, f"stages.{i}.{j}", x, d, training)
        x = global_block(s, f"stages.{i}.{n - 1}", x, with_position=i == 0)
        feats.append(x)
        if i < 2:
            together = torch.cat([start, x, pooled[i + 2]], 1)
            x = F.conv2d(together, s[f"downsample_layers.{i + 1}.0.conv.weight"], stride=2, padding=1)
    return feats


def litemono_decoder(s, feats, activation):
    """Maps of scale 0, 1, 2, heads numbered in this order."""
    maps, x = {}, feats[2]
    for i in (2, 1, 0):
        x = bilinear2(block(s, f"decoder.{2 * (2 - i)}.conv", x))
        if i:
            x = torch.cat([x, feats[i - 1]], 1)
        x = block(s, f"decoder.{2 * (2 - i) + 1}.conv", x)
        maps[i] = activation(bilinear2(reflect(s, f"decoder.{6 + i}.conv", x)))
    return maps


def litemono_dilations(name, dilation):
    first = (1, 2, 3) if dilation == "small" or name == "litemono_8m" else (1, 2, 5)
    repeats = {10: 2, 7: 1}[LITEMONO[name][1][2]]
    return first, first, (*first * repeats, 2, 4, 2 * first[2])


@pytest.mark.parametrize("dilation", ["small", "large"])
@pytest.mark.parametrize("name", sorted(LITEMONO))
def test_dilations_and_drop_path_of_litemono(name, dilation):
    """Dilations by stage; a chance of leaving a block out that rises from 0 to 0.2 over all blocks."""
    options = {"enc_name": name, "dec_name": "litemono", "out_scales": [0], "enc_options": {"dilation": dilation}}
    with torch.device("meta"):
        encoder = models_zoo.create("depth", pretrained=False, **options).encoder
    found = [m.dilation[0] for m in encoder.modules() if isinstance(m, torch.nn.Conv2d) and m.groups > 1]
    assert found == [d for stage in litemono_dilations(name, dilation) for d in stage]
    dropped = [m.drop_prob for m in encoder.modules() if hasattr(m, "drop_prob")]
    n = sum(LITEMONO[name][1])
    assert dropped == pytest.approx([0.2 * i / (n - 1) for i in range(n)][-len(dropped) :])
    assert len(dropped) >= n - 1  # the first may have none


LONG = [
    (name, dilation, activation, training)
    for name in LITEMONO
    for dilation, activation in (("small", "relu"), ("large", "sigmoid"))
    for training in (False, True)
]


@pytest.mark.parametrize(
    ("name", "dilation", "activation", "training"),
    [
        ("litemono", "large", "relu", False),
        ("litemono_tiny", "small", "sigmoid", True),
        *(pytest.param(*case, marks=pytest.mark.long) for case in LONG),
    ],
)
def test_litemono(name, dilation, activation, training):
    net = create(
        "depth",
        enc_name=name,
        dec_name="litemono",
        out_scales=[0, 1, 2],
        activation=activation,
        enc_options={"drop_path": 0.0, "dilation": dilation},
        **GREY,
    ).train(training)
    state, images = net.state_dict(), rand(1 + training, 3, 64, 192)  # 12 columns for dilation 10
    channels, blocks = LITEMONO[name]
    dilations = litemono_dilations(name, dilation)
    assert tuple(map(len, dilations)) == tuple(n - 1 for n in blocks)
    feats = litemono_encoder(under(state, "encoder"), standardised(images, **GREY), blocks, dilations, training)
    assert tuple(feat.shape[1] for feat in feats) == channels

    s, act = under(state, "decoders.disp"), getattr(torch, activation)
    for scale, raw in litemono_decoder(s, feats, lambda x: x).items():
        s[f"decoder.{6 + scale}.conv.bias"] -= raw.median()  # of ours, too: half of it is negative
    maps = litemono_decoder(s, feats, act)
    for out in outputs(net, images):
        for ours, theirs in zip(out["depth_feats"], feats, strict=True):
            agree(ours, theirs, CODE)
        for scale in (0, 1, 2):
            agree(out["disp"][scale], maps[scale], CODE)


# RA-Depth's decoder, arXiv:2207.11984


def msf_decoder(s, e):
    def ce(n, x):
        return block(s, f"decoder.{n}.conv", x)

    def k(n, x, doublings):
        for _ in range(doublings):
            x = up2(x)
        p = f"decoder.{n}.conv.conv"
        return F.elu(F.conv2d(x, s[f"{p}.weight"], s[f"{p}.bias"]))

    a1, a2, a3, a4 = (ce(n, feat) for n, feat in enumerate(e[1:]))
    s1 = a1 + k(4, a2, 1) + k(6, a3, 2) + k(9, a4, 3)
    s2 = a2 + k(5, a3, 1) + k(8, a4, 2)
    s3 = a3 + k(7, a4, 1)
    a1, a2, a3 = ce(10, s1), ce(11, s2), ce(12, s3)
    s1 = a1 + k(13, a2, 1) + k(15, a3, 2)
    s2 = a2 + k(14, a3, 1)
    a1, a2 = ce(16, s1), ce(17, s2)
    s1 = a1 + k(18, a2, 1)
    x = ce(19, e[0]) + k(21, ce(20, s1), 1)
    return torch.sigmoid(reflect(s, "decoder.24.conv", ce(23, up2(ce(22, x)))))


def test_msf():
    net = create("depth", enc_name="test_resnet", dec_name="msf", out_scales=[0]).decoders["disp"].eval()
    channels = [net.state_dict()[f"decoder.{n}.conv.conv.weight"].shape[1] for n in (19, 0, 1, 2, 3)]
    feats = [rand(2, c, 32 >> i, 64 >> i, seed=i) - 0.5 for i, c in enumerate(channels)]
    theirs = msf_decoder(net.state_dict(), feats)
    for ours in outputs(net, feats):
        agree(ours[0], theirs)


# Motion and intrinsics, arXiv:1904.04998, arXiv:2307.10713


def branch(s, p, x):
    for i in range(2):
        x = F.relu(conv(s, f"{p}.{i}.0", x))
    return conv(s, f"{p}.2", x).mean((2, 3))


def test_heads_of_the_pose_network():
    net = create("pose", enc_name="test_resnet", learn_K=True, **IMAGENET).eval()
    s, pairs = net.state_dict(), rand(2, 6, 64, 96)
    with torch.no_grad():
        x = F.relu(conv(s, "squeeze.0", net.encoder(standardised(pairs, **IMAGENET))[-1]))
    motion = 0.01 * branch(s, "decoder", x).view(2, 2, 6)
    focal = torch.log1p(torch.exp(branch(s, "focal", x)))
    centre = 1 / (1 + torch.exp(-branch(s, "centre", x)))
    for out in outputs(net, pairs):
        agree(100 * out["R"], 100 * motion[..., :3])
        agree(100 * out["t"], 100 * motion[..., 3:])
        agree(out["focal"], focal)
        agree(out["centre"], centre)


# Depth Anything, arXiv:2401.10891: DINOv2 (arXiv:2304.07193) with the head of DPT (arXiv:2103.13413), and its adapters:
# LoRA, arXiv:2106.09685; DV-LoRA, EndoDAC, arXiv:2405.08672

WIDTH, BLOCKS, HEADS, RANK, ALPHA = 12, 6, 2, 3, 4.5
TAPS = [0, 2, 3, 5]


def depth_anything(activation="sigmoid", adapter=None, out_scales=(0,)):
    return create(
        "depth",
        enc_name="vit_small_patch14_dinov2",
        dec_name="dpt",
        activation=activation,
        out_scales=list(out_scales),
        adapter=adapter,
        taps=TAPS,
        enc_options={"embed_dim": WIDTH, "depth": BLOCKS, "num_heads": HEADS, "img_size": 84},  # 6 x 6 patches
        dec_options={"neck": [4, 6, 8, 10], "fusion": 8, "hidden": 5},
        **IMAGENET,
    ).eval()


def adapted(s, p, x):
    """W x + b + alpha / r (v B)(u A) x, where there is an adapter; of LoRA u and v are 1."""
    y = linear(s, p, x)
    if f"{p}.lora_A" in s:
        a = s.get(f"{p}.lora_U", 1) * s[f"{p}.lora_A"]
        b = s.get(f"{p}.lora_V", 1) * s[f"{p}.lora_B"]
        y = y + ALPHA / RANK * (x @ a.T @ b.T)
    return y


def position_embedding(rows, p, q):
    """Class row, and the grid resampled to p x q: bicubic, corners not aligned, no antialiasing, in float32."""
    side = math.isqrt(rows.shape[1] - 1)
    grid = rows[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    if (p, q) != (side, side):
        grid = F.interpolate(grid.float(), (p, q), mode="bicubic", align_corners=False, antialias=False).double()
    return torch.cat([rows[:, :1], grid.flatten(2).transpose(1, 2)], 1)


def vit(s, images):
    """Tokens after the blocks of `TAPS` and the final LayerNorm, as maps."""
    x = F.conv2d(images, s["patch_embed.proj.weight"], s["patch_embed.proj.bias"], stride=14)
    b, d, p, q = x.shape
    t = torch.cat([s["cls_token"].expand(b, 1, d), x.flatten(2).transpose(1, 2)], 1)
    t = t + position_embedding(s["pos_embed"], p, q)
    maps = []
    for i in range(BLOCKS):
        at = f"blocks.{i}"
        qkv = linear(s, f"{at}.attn.qkv", layer_norm(s, f"{at}.norm1", t))
        query, key, value = qkv.reshape(b, -1, 3, HEADS, d // HEADS).permute(2, 0, 3, 1, 4)
        a = torch.softmax(query @ key.transpose(-1, -2) / math.sqrt(d // HEADS), -1)
        y = linear(s, f"{at}.attn.proj", (a @ value).transpose(1, 2).reshape(b, -1, d))
        t = t + s[f"{at}.ls1.gamma"] * y
        y = gelu(adapted(s, f"{at}.mlp.fc1", layer_norm(s, f"{at}.norm2", t)))
        t = t + s[f"{at}.ls2.gamma"] * adapted(s, f"{at}.mlp.fc2", y)
        if i in TAPS:
            maps.append(layer_norm(s, "norm", t)[:, 1:].transpose(1, 2).reshape(b, d, p, q))
    return maps


def to_size(x, size):
    return F.interpolate(x, size, mode="bilinear", align_corners=True)


def residual_unit(s, p, x):
    return x + conv(s, f"{p}.convolution2", F.relu(conv(s, f"{p}.convolution1", F.relu(x))))


def dpt_fused(s, maps):
    """The four fused maps, deep to shallow, the last of 8p x 8q."""
    skips = []
    for k, tokens in enumerate(maps):
        p = f"reassemble.{k}"
        x = conv(s, f"{p}.projection", tokens)
        weight, bias = s.get(f"{p}.resize.weight"), s.get(f"{p}.resize.bias")
        if k < 2:
            x = F.conv_transpose2d(x, weight, bias, stride=(4, 2)[k])
        elif k == 3:
            x = F.conv2d(x, weight, bias, stride=2, padding=1)
        skips.append(conv(s, f"convs.{k}", x))
    fused, x = [], skips[3]
    for j in range(4):
        if j:
            x = x + residual_unit(s, f"fusion.{j}.residual_layer1", skips[3 - j])
        x = residual_unit(s, f"fusion.{j}.residual_layer2", x)
        rows, columns = x.shape[-2:]
        x = to_size(x, skips[2 - j].shape[-2:] if j < 3 else (2 * rows, 2 * columns))
        x = conv(s, f"fusion.{j}.projection", x)
        fused.append(x)
    return fused


def dpt_head(s, p, x, size, activation):
    x = to_size(conv(s, f"{p}.conv1", x), size)
    return activation(conv(s, f"{p}.conv3", F.relu(conv(s, f"{p}.conv2", x))))


@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
@pytest.mark.parametrize("grid", [(3, 4), (5, 2)], ids=["3x4", "5x2"])
def test_dpt_neck_and_head(grid, activation):
    net = depth_anything(activation, out_scales=(0, 1, 2, 3)).decoders["disp"]
    s, (p, q) = net.state_dict(), grid
    maps = [rand(2, WIDTH, p, q, seed=k) - 0.5 for k in range(4)]
    fused, act, theirs = dpt_fused(s, maps), getattr(torch, activation), {}
    for scale, head in enumerate(("head", "scale_heads.1", "scale_heads.2", "scale_heads.3")):
        x = fused[3 - scale]
        rows, columns = x.shape[-2:]
        size = (2 * rows, 2 * columns) if scale else (14 * p, 14 * q)  # EndoDAC's heads of the coarser maps double them
        s[f"{head}.conv3.bias"] -= dpt_head(s, head, x, size, lambda x: x).median()
        theirs[scale] = dpt_head(s, head, x, size, act)
    for out in outputs(net, maps):
        for scale, disp in theirs.items():
            agree(out[scale], disp)


@pytest.mark.parametrize("size", [(84, 84), (56, 126), (28, 70), (98, 112)], ids=lambda s: f"{s[0]}x{s[1]}")
def test_vit_and_its_position_embedding(size):
    """Of 6 x 6 patches: as many, as many in another shape (4 x 9), fewer, and more."""
    net, images = depth_anything(), rand(2, 3, *size)
    maps = vit(under(net.state_dict(), "encoder.vit"), standardised(images, **IMAGENET))
    s = under(net.state_dict(), "decoders.disp")
    disp = dpt_head(s, "head", dpt_fused(s, maps)[3], size, torch.sigmoid)
    for out in outputs(net, images):
        for ours, theirs in zip(out["depth_feats"], maps, strict=True):
            agree(ours, theirs)
        agree(out["disp"][0], disp)


@pytest.mark.parametrize("kind", ["lora", "dv_lora"])
def test_adapters(kind):
    """Forward as the formula says; merged, W' = W + alpha / r (v B)(u A), the outputs stay."""
    net = depth_anything(adapter={"type": kind, "rank": RANK, "alpha": ALPHA})
    s = {key: value.clone() for key, value in under(net.state_dict(), "encoder.vit").items()}
    assert len([key for key in s if key.endswith("lora_A")]) == 2 * BLOCKS
    assert ("blocks.0.mlp.fc1.lora_U" in s) == (kind == "dv_lora")
    images = rand(1, 3, 56, 70)
    with torch.no_grad():
        plain = net(images)
        merged_net = merge(net)
        merged = merged_net(images)
    maps = vit(s, standardised(images, **IMAGENET))
    for ours, theirs, folded in zip(plain["depth_feats"], maps, merged["depth_feats"], strict=True):
        agree(ours, theirs)
        agree(folded, theirs)
    for layer in ("blocks.0.mlp.fc1", "blocks.5.mlp.fc2"):
        a = s.get(f"{layer}.lora_U", 1) * s[f"{layer}.lora_A"]
        b = s.get(f"{layer}.lora_V", 1) * s[f"{layer}.lora_B"]
        weight = merged_net.state_dict()[f"encoder.vit.{layer}.weight"]
        agree(weight, s[f"{layer}.weight"] + ALPHA / RANK * b @ a)
