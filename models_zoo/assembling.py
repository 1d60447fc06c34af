"""What stands between two convolutions of a decoder, written once: activation, repeated pixels, skips, mirrored border.

On a CPU these are memory traffic, one pass and one stored map each. `assemble` writes all of it into one buffer, which
the next `ReflectConv2d` reads as it is, and keeps the activation nowhere else: its derivative follows from its result.
What `assemble` returns is an ordinary map, a view of the inside of that buffer.

Elsewhere the plain formula runs: for compilers and exporters, which fuse it themselves; on GPUs, where every part of a
buffer would be a kernel of its own; under the transforms of `torch.func`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

devices: tuple[str, ...] = ("cpu",)  # where maps are assembled by hand
REFLECT = (1, 1, 1, 1)


class Activation(NamedTuple):
    """An activation whose derivative can be told from its result."""

    apply: Callable[[Tensor], Tensor]
    write: Callable[[Tensor, Tensor], Tensor]  # of a map into memory
    backward: Callable[[Tensor, Tensor], Tensor]  # gradient of the result, and the result -> gradient of the argument


ACTS = {
    "elu": Activation(
        F.elu,
        lambda x, out: torch.ops.aten.elu.out(x, 1, 1, 1, out=out),
        lambda grad, y: torch.ops.aten.elu_backward(grad, 1, 1, 1, True, y),  # True: from the result, y + 1 below 0
    ),
    "relu": Activation(
        F.relu,
        lambda x, out: torch.clamp_min(x, 0, out=out),
        lambda grad, y: torch.ops.aten.threshold_backward(grad, y, 0),
    ),
    "none": Activation(lambda x: x, lambda x, out: out.copy_(x), lambda grad, _: grad),
}


def up2(x: Tensor) -> Tensor:
    """Double height and width by repeating pixels: (b c h w) -> (b c 2h 2w)."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def join(x: Tensor, *skips: Tensor | None) -> Tensor:
    """Concatenate a map (b c h w) and skips (b d h w), if any, along the channels."""
    maps = [x, *(skip for skip in skips if skip is not None)]
    return x if len(maps) == 1 else torch.cat(maps, dim=1)


def assemble(x: Tensor, *skips: Tensor | None, act: str = "none", up: bool = False, pad: bool = False) -> Tensor:
    """Apply an activation of ACTS, repeat pixels 2x2 if `up`, append skips: (b c h w) -> (b c+d H W).

    skips (b d H W), None for none. pad: `padded` will be asked for the result, by one convolution or several, so that
    it is best written into the middle of a padded buffer.
    """
    given = [skip for skip in skips if skip is not None]
    if (up or given or pad) and _can_write(x, given, up):
        out = _Assemble.apply(x, act, up, pad, *given)
        return _inside_of(out) if pad else out
    x = ACTS[act].apply(x)
    return join(up2(x) if up else x, *given)


def padded(x: Tensor, reader: nn.Module | None = None) -> Tensor:
    """Mirror the border of x: (b c h w) -> (b c h+2 w+2), h, w >= 2.

    What `assemble` or `share_padding` made of x already serves, unless x has changed since, or somebody waits for its
    gradient, perhaps a hook of the module that reads it.
    """
    if not _is_eager(x):
        return F.pad(x, REFLECT, mode="reflect")
    buffer, version = getattr(x, "reflect_padded", (None, None))
    if buffer is None or version != _version(x):
        return _pad(x)
    is_waited_for = x._backward_hooks or x.retains_grad or (reader is not None and is_watched(reader))
    return _pad(x) if is_waited_for else buffer


def is_watched(module: nn.Module) -> bool:
    """Return whether somebody watches what goes into a module or comes out, also in the backward pass."""
    return bool(
        module._forward_pre_hooks
        or module._forward_hooks
        or module._backward_pre_hooks
        or module._backward_hooks
        or torch.nn.modules.module._has_any_global_hook()
    )


def share_padding(x: Tensor) -> Tensor:
    """Mirror the border of x (b c h w) once for all the convolutions that will read it. Returns x."""
    if _is_eager(x):
        x.reflect_padded = _pad(x), _version(x)  # type: ignore[attr-defined]
    return x


def _pad(x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):  # on a CPU it would pad 16-bit maps as float32
        return F.pad(x, REFLECT, mode="reflect")


def _inside_of(buffer: Tensor) -> Tensor:
    """Return the inside of a padded buffer (b c h+2 w+2), a map (b c h w) that `padded` knows."""
    x = buffer[:, :, 1:-1, 1:-1]
    x.reflect_padded = buffer, _version(x)  # type: ignore[attr-defined]
    return x


def _version(x: Tensor) -> int:
    """Return how often x was changed in place; in inference mode nobody counts."""
    return 0 if x.is_inference() else x._version


def _is_eager(x: Tensor) -> bool:
    """Return whether x is an ordinary tensor on a CPU, and nobody records or transforms what is done with it."""
    recorded = torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active()
    return not recorded and type(x) is Tensor and x.device.type in devices


def _can_write(x: Tensor, skips: list[Tensor], up: bool) -> bool:
    """Return whether a buffer can be written; what the plain formula refuses is left to it."""
    if not _is_eager(x) or x.dim() != 4 or torch.autograd.forward_ad._current_level >= 0:
        return False
    b, _, h, w = x.shape
    size = (2 * h, 2 * w) if up else (h, w)
    fitting = all(skip.dtype == x.dtype and skip.shape == (b, skip.shape[1], *size) for skip in skips)
    return fitting and all(map(_is_eager, skips)) and x.numel() > 0 and min(size) >= 2


class _Assemble(torch.autograd.Function):
    """`assemble` into new memory (b c+d H W), with `pad` (b c+d H+2 W+2).

    The backward pass is made of differentiable operations, so that it can be differentiated again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, act: str, up: bool, pad: bool, *skips: Tensor) -> Tensor:
        b, _, *size = x.shape
        height, width = ((1 + up) * side + 2 * pad for side in size)
        channels = [x.shape[1], *(skip.shape[1] for skip in skips)]
        is_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        layout = torch.channels_last if is_last else torch.contiguous_format
        out = torch.empty((b, sum(channels), height, width), dtype=x.dtype, device=x.device, memory_format=layout)
        inside = out[:, :, 1:-1, 1:-1] if pad else out
        first, *others = inside.split(channels, 1)
        if up:
            y = ACTS[act].apply(x)
            for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
                first[:, :, row::2, column::2] = y
        else:
            ACTS[act].write(x, first)
        for part, skip in zip(others, skips, strict=True):
            part.copy_(skip)
        if pad:
            for dim in (2, 3):
                for edge, inner in ((0, 2), (-1, -3)):
                    lines = out if dim == 3 else out[..., 1:-1]
                    lines.select(dim, edge).copy_(lines.select(dim, inner))
        ctx.how, ctx.channels = (act, up, pad), channels
        if act != "none":
            ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        act, up, pad = ctx.how
        first, *others = grad.split(ctx.channels, 1)
        wanted = ctx.needs_input_grad[4:]
        of_skips = [
            _fold(part, False, pad) if is_wanted else None for part, is_wanted in zip(others, wanted, strict=True)
        ]
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = _fold(first, up, pad)
            for out in ctx.saved_tensors:
                y = out[:, : ctx.channels[0]]
                y = y[:, :, 1:-1, 1:-1] if pad else y
                of_x = ACTS[act].backward(of_x, y[:, :, ::2, ::2] if up else y)
        return of_x, None, None, None, *of_skips


def _fold(grad: Tensor, up: bool, pad: bool) -> Tensor:
    """Apply the transpose of repeating pixels, if `up`, and mirroring the border, if `pad`: (b c H W) -> (b c h w)."""
    is_new = False
    for dim in (2, 3):
        inside = grad.narrow(dim, 1, grad.shape[dim] - 2) if pad else grad
        if up:
            even, odd = inside.unflatten(dim, (-1, 2)).unbind(dim + 1)
            total, ends = even + odd, (0, -1)
        else:
            total, ends = inside.clone() if pad and not is_new else inside, (1, -2)
        is_new = True
        if pad:
            for end, edge in zip(ends, (0, -1), strict=True):
                total.select(dim, end).add_(grad.select(dim, edge))
        grad = total
    return grad
