"""What is written once between two convolutions is what the plain formula gives; who looks sees no difference."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from models_zoo import assembling
from models_zoo.assembling import assemble, padded, share_padding
from models_zoo.decoders import DECODERS
from models_zoo.layers import ConvELU, Named, conv3x3, convolve
from tests.models_zoo.test_decoders import every_decoder, features, pyramid, scales

ACTS: dict[str, Callable[[Tensor], Tensor]] = {"none": lambda x: x, "relu": F.relu, "elu": F.elu}


def by_hand(x: Tensor, *skips: Tensor, act: str = "none", up: bool = False, pad: bool = True) -> Tensor:
    """The plain formula, border included."""
    x = ACTS[act](x)
    if up:
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    x = torch.cat([x, *skips], 1)
    return F.pad(x, (1, 1, 1, 1), mode="reflect") if pad else x


def written(x: Tensor, *skips: Tensor, pad: bool = True, **how: Any) -> Tensor:
    x = assemble(x, *skips, pad=pad, **how)
    assert not pad or hasattr(x, "reflect_padded")
    return padded(x) if pad else x


def maps(size: tuple[int, int], up: bool, n_skips: int, layout: torch.memory_format) -> list[Tensor]:
    """A map of a size and skips for it, as double, with gradients."""
    sizes = [size, *[(2 * size[0], 2 * size[1]) if up else size] * n_skips]
    made = [torch.randn(2, 3 + i, *side).double().to(memory_format=layout) for i, side in enumerate(sizes)]
    return [x.requires_grad_() for x in made]


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Turn to the plain formula."""
    return lambda: monkeypatch.setattr(assembling, "_is_eager", lambda x: False)


@pytest.mark.parametrize(("act", "up", "n_skips", "pad"), [*product(ACTS, (False, True), (0, 2), (False, True))])
def test_values_and_gradients_are_those_of_the_plain_formula(act: str, up: bool, n_skips: int, pad: bool):
    how: dict[str, Any] = {"act": act, "up": up, "pad": pad}
    for size, layout in product([(2, 2), (3, 5)], [torch.contiguous_format, torch.channels_last]):
        given = maps(size, up, n_skips, layout)
        ours, theirs = written(*given, **how), by_hand(*given, **how)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
        assert not pad or ours.is_contiguous(memory_format=layout)
        grad = torch.randn_like(theirs)
        for mine, other in zip(*(torch.autograd.grad(y, given, grad) for y in (ours, theirs)), strict=True):
            torch.testing.assert_close(mine, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("up", [False, True])
def test_gradients_are_exact_and_can_be_differentiated_again(up: bool):
    given = maps((2, 2), up, 1, torch.channels_last)
    given = [x[:1, :1].detach().requires_grad_() for x in given]
    assert torch.autograd.gradcheck(lambda *x: written(*x, act="elu", up=up), given)
    assert torch.autograd.gradgradcheck(lambda *x: written(*x, act="elu", up=up), given)


def test_a_single_pixel_becomes_four_and_has_a_border():
    x = torch.tensor([[[[2.0]]]])
    assert torch.equal(written(x, up=True), torch.full((1, 1, 4, 4), 2.0))


def test_the_border_mirrors_without_repeating_the_edge():
    x = torch.arange(6.0).view(1, 1, 2, 3)
    assert written(x)[0, 0].tolist() == [[4, 3, 4, 5, 4], [1, 0, 1, 2, 1], [4, 3, 4, 5, 4], [1, 0, 1, 2, 1]]


@pytest.mark.parametrize("skip", [(2, 3, 4, 4), (1, 3, 8, 8), (2, 3, 1, 1)])
def test_a_skip_of_another_size_is_refused_and_never_repeated(skip: tuple[int, ...]):
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        assemble(torch.zeros(2, 3, 4, 4), torch.zeros(skip), up=True, pad=True)


def test_a_map_of_one_row_has_no_border_to_mirror():
    with pytest.raises(RuntimeError, match=r"[Pp]adding size"):
        padded(assemble(torch.zeros(1, 1, 1, 5), act="elu", pad=True))


def stored(fn: Callable[[], Tensor]) -> dict[int, int]:
    """Bytes of the memory that waits for the backward pass, by address."""
    seen: dict[int, int] = {}

    def look(x: Tensor) -> Tensor:
        seen[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(look, lambda x: x):
        out = fn()
    assert out.requires_grad
    return seen


def test_between_two_convolutions_only_the_padded_map_is_stored():
    x, skip = torch.randn(1, 8, 4, 4), torch.randn(1, 8, 8, 8)
    reduce, fuse, head = ConvELU(8, 16), ConvELU(24, 16), conv3x3(16, 1)
    weights = {p.data_ptr() for p in [*reduce.parameters(), *fuse.parameters(), *head.parameters()]}

    def level() -> Tensor:
        return head(convolve(fuse, convolve(reduce, x, skip, up=True, pad=True), pad=True))

    sizes = sorted(size for place, size in stored(level).items() if place not in weights)
    assert sizes == sorted(4 * n for n in (8 * 4 * 4, 8 * 6 * 6, 24 * 10 * 10, 16 * 10 * 10))[1:]  # x waits padded


@every_decoder
def test_decoders_learn_what_they_learn_with_the_plain_formula(name: str, plain: Callable[[], None]):
    decoder = DECODERS.create(name, out_scales=scales(name), **pyramid(name)).double()
    feats = [feat.double().requires_grad_() for feat in features(**pyramid(name))]
    wanted = [*(p for p in decoder.parameters() if p.requires_grad), *feats]

    def learned() -> tuple[dict[int, Tensor], tuple[Tensor | None, ...]]:
        out = decoder(feats)
        loss = torch.stack([disp.square().sum() for disp in out.values()]).sum()
        return out, torch.autograd.grad(loss, wanted, allow_unused=True)

    ours = learned()
    plain()
    torch.testing.assert_close(ours, learned(), rtol=0, atol=1e-10)


class Watch(TorchDispatchMode):
    """Note the names of operations, and the number formats of the maps that they make."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, torch.dtype]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.dim() == 4:
            self.seen.append((func.overloadpacket.__name__, out.dtype))
        return out

    def count(self, name: str, dtype: torch.dtype | None = None) -> int:
        return sum(op == name and dtype in (None, made) for op, made in self.seen)


@pytest.mark.parametrize("eager", [True, False])
def test_autocast_widens_nothing_but_the_outputs(eager: bool, monkeypatch: pytest.MonkeyPatch):
    decoder, feats = DECODERS.create("monodepth", **pyramid("monodepth")), features(**pyramid("monodepth"))
    if not eager:  # the padding alone, as where hooks watch every layer
        monkeypatch.setattr(assembling, "_can_write", lambda *args: False)
    with Watch() as watch, torch.autocast("cpu", torch.bfloat16):
        decoder([feat.bfloat16() for feat in feats])
    assert watch.count("_to_copy", torch.float32) == 4  # outputs
    assert watch.count("reflection_pad2d") == (1 if eager else 14)  # of the deepest feature; the rest is written once
    for name in ("reflection_pad2d", "cat", "elu"):
        assert watch.count(name, torch.float32) == 0


@pytest.fixture
def pair() -> tuple[ConvELU, ConvELU, nn.Conv2d, Tensor]:
    """Two blocks, an output, and a map for them."""
    return ConvELU(2, 3), ConvELU(3, 3), conv3x3(3, 1), torch.randn(1, 2, 4, 4)


def run(reduce: nn.Module, fuse: nn.Module, head: nn.Module, x: Tensor) -> Tensor:
    return head(convolve(fuse, convolve(reduce, x, up=True, pad=True), pad=True))


def test_hooks_see_the_elu_and_its_gradient(pair: tuple[ConvELU, ConvELU, nn.Conv2d, Tensor]):
    *layers, x = pair
    expected = run(*layers, x)
    seen: list[Tensor] = []
    for layer in layers[:2]:
        layer.register_forward_hook(lambda module, args, out: seen.append(out))
    out = run(*layers, x)
    assert torch.equal(out, expected)
    assert torch.equal(seen[0], F.elu(layers[0].conv(x)))
    assert [tuple(y.shape) for y in seen] == [(1, 3, 4, 4), (1, 3, 8, 8)]
    assert all(grad.abs().sum() > 0 for grad in torch.autograd.grad(out.sum(), seen))


def test_a_hook_may_put_another_map_in_place(pair: tuple[ConvELU, ConvELU, nn.Conv2d, Tensor]):
    reduce, fuse, head, x = pair
    for layer in (reduce, fuse, fuse.conv, head):
        handle = layer.register_forward_hook(lambda module, args, out: torch.zeros_like(out))
        out = run(reduce, fuse, head, x)
        handle.remove()
        if layer is reduce:
            expected = head(fuse(torch.zeros(1, 3, 8, 8)))
        else:
            expected = torch.zeros_like(out) if layer is head else head(torch.zeros(1, 3, 8, 8))
        torch.testing.assert_close(out, expected)


def test_who_waits_for_the_gradient_of_an_input_gets_it(pair: tuple[ConvELU, ConvELU, nn.Conv2d, Tensor]):
    reduce, fuse, head, x = pair
    inputs: list[Tensor] = []
    head.register_forward_pre_hook(lambda module, args: inputs.extend(args))
    assert torch.autograd.grad(run(reduce, fuse, head, x).sum(), inputs)[0].shape == (1, 3, 8, 8)
    wrapped = nn.Sequential(conv3x3(3, 1))
    wrapped.register_forward_pre_hook(lambda module, args: args[0].retain_grad() or inputs.extend(args))
    run(reduce, fuse, wrapped, x).sum().backward()
    assert inputs[-1].grad is not None
    backward: list[Any] = []
    fuse.register_full_backward_hook(lambda module, *grads: backward.extend(grads))
    run(reduce, fuse, conv3x3(3, 1), x).sum().backward()
    assert [grad[0].shape for grad in backward] == [(1, 3, 8, 8)] * 2


def test_another_forward_pass_is_respected(pair: tuple[ConvELU, ConvELU, nn.Conv2d, Tensor]):
    reduce, fuse, head, x = pair
    reduce.forward = lambda x: torch.zeros(1, 3, 4, 4)  # type: ignore[method-assign]
    torch.testing.assert_close(run(reduce, fuse, head, x), head(fuse(torch.zeros(1, 3, 8, 8))))
    torch.testing.assert_close(run(nn.Conv2d(2, 3, 1), Named(nn.ELU()), head, x).shape, (1, 1, 8, 8))


@pytest.mark.parametrize("make", [lambda x: assemble(x, pad=True), lambda x: share_padding(x.clone())])
def test_a_map_that_has_changed_since_is_padded_anew(make: Callable[[Tensor], Tensor]):
    x = make(torch.zeros(1, 1, 2, 2))
    assert padded(x) is padded(x)
    x += 1
    assert torch.equal(padded(x), torch.ones(1, 1, 4, 4))
    with torch.inference_mode():
        assert torch.equal(padded(make(x)), torch.ones(1, 1, 4, 4))


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_compilers_exporters_and_transforms_see_the_plain_formula(pair: tuple[ConvELU, ConvELU, nn.Conv2d, Tensor]):
    *layers, x = pair

    class Net(nn.ModuleList):
        def forward(self, x: Tensor) -> Tensor:
            return run(*self, x)

    net = Net(layers)
    expected = net(x)
    graph = torch.export.export(net, (x,), strict=False).graph
    named = [node.target._opname for node in graph.nodes if node.op == "call_function"]
    plain = ["pad", "conv2d", "elu", "upsample_nearest2d", "pad", "conv2d", "elu", "pad", "conv2d"]
    assert [name for name in named if "cat" not in name] == plain
    torch.testing.assert_close(torch.jit.trace(net, x)(x), expected)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(net, backend="eager", fullgraph=True)(x), expected)
    slope = torch.func.grad(lambda x: net(x).sum())(x)
    torch.testing.assert_close(slope, torch.autograd.grad(net(x := x.clone().requires_grad_()).sum(), x)[0])
    torch.testing.assert_close(torch.func.jvp(net, (x,), (torch.ones_like(x),))[1].sum(), slope.sum())
