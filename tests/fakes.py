"""Networks, batches and objectives small enough for a test: the interface of the real ones, nothing else."""

from __future__ import annotations

import torch
from torch import nn

from tests.losses.scenes import SIZE, intrinsics
from trainer.losses import LOSSES
from trainer.objective import Objective


class FakeDepth(nn.Module):
    """One convolution and pooling: the interface of a depth network, nothing else."""

    def __init__(self, mask_name=None, use_virtual_stereo=False, n_mask=2, scales=(0, 1)):
        super().__init__()
        self.mask_name, self.use_virtual_stereo, self.scales = mask_name, use_virtual_stereo, scales
        self.head = nn.Conv2d(3, 3 + n_mask, 3, padding=1)
        self.seen = None

    def forward(self, images):
        self.seen = images
        maps = self.head(images).sigmoid()
        maps = {s: nn.functional.avg_pool2d(maps, 2**s) if s else maps for s in self.scales}
        out = {"disp": {s: m[:, :1] for s, m in maps.items()}, "depth_feats": [maps[self.scales[0]]]}
        if self.use_virtual_stereo:
            out["disp_stereo"] = {s: m[:, 1:3] for s, m in maps.items()}
        if self.mask_name:
            out["mask"] = {s: m[:, 3:] for s, m in maps.items()}
        return out


class FakePose(nn.Module):
    """Motion = brightness of the first image (rotation) and of the second (translation): who is first?"""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.1))
        self.calls = []

    def forward(self, pairs):
        self.calls.append(pairs)
        first, second = pairs[:, :3].mean((1, 2, 3)), pairs[:, 3:].mean((1, 2, 3))
        R = self.gain * first.view(-1, 1, 1) * torch.tensor([0.0, 1.0, 0.0]).expand(len(pairs), 2, 3)
        t = self.gain * second.view(-1, 1, 1) * torch.tensor([1.0, 0.0, 0.5]).expand(len(pairs), 2, 3)
        return {"R": R * torch.tensor([1.0, 9.0]).view(1, 2, 1), "t": t}


class FakeAutoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.0))

    def forward(self, images):
        return {"autoenc_imgs": {0: self.gain * images}, "autoenc_feats": [images, images]}


def make_batch(b=2, supp_idxs=(-1, 1), seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.rand(*shape, generator=generator, dtype=dtype)

    batch = {"target": rand(b, 3, *SIZE), "K": intrinsics(b, SIZE, dtype), "index": torch.arange(b)}
    if supp_idxs:
        batch["supports"] = rand(b, len(supp_idxs), 3, *SIZE)
    if 0 in supp_idxs:
        batch["T_stereo"] = torch.eye(4, dtype=dtype).repeat(b, 1, 1)
        batch["T_stereo"][:, 0, 3] = torch.tensor([-0.1, 0.1]).repeat(b)[:b]
    return batch


def make_losses(**recon):
    return {
        "img_recon": LOSSES.create("img_recon", **{"automask_noise": 0.0, **recon}),
        "disp_smooth": LOSSES.create("disp_smooth", use_edges=True),
    }


def make_objective(supp_idxs=(-1, 1), pose=True, losses=None, depth=None, **kwargs):
    torch.manual_seed(0)
    networks = {"depth": depth or FakeDepth()}
    if pose:
        networks["pose"] = FakePose()
    losses = make_losses() if losses is None else losses
    return Objective(networks, losses, {"disp_smooth": 0.1} if losses else {}, supp_idxs, **kwargs)
