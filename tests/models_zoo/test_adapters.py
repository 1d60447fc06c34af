"""Adapters by hand: what they add, what they train, how many numbers they are, and that nothing is left once merged."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from torch import nn

import models_zoo
from models_zoo.adapters import adapt, adapters_of, is_adapter, merge, merged_state

KINDS = ("lora", "dv_lora")


def depth(**adapter: Any) -> nn.Module:
    torch.manual_seed(0)
    options = {"enc_name": "test_vit", "pretrained": False, "out_scales": [0]}
    return models_zoo.create("depth", **options, adapter=adapter or None)


def count(module: nn.Module, trained: bool = False) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained)


def layer(kind: str, **options: Any) -> Any:
    """One layer of 3 -> 2 with the adapter of an encoder that has nothing else, its numbers set by hand."""
    vit = nn.ModuleDict({"patch_embed": nn.Identity(), "blocks": nn.ModuleList([nn.Linear(3, 2, bias=False)])})
    adapt(vit, kind, targets=["0"], **options)
    (found,) = adapters_of(vit)
    values = {"weight": [[1, 0, 0], [0, 1, 0]], "lora_A": [[1, 1, 1]], "lora_B": [[1], [2]]}
    values |= {"lora_U": [[3]], "lora_V": [[1], [10]]} if kind == "dv_lora" else {}
    with torch.no_grad():
        for name, value in values.items():
            getattr(found, name).copy_(torch.tensor(value))
    return found


def test_the_update_by_hand() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0]])  # W x = (1, 2); A x = 6; B A x = (6, 12)
    assert layer("lora", rank=1)(x).tolist() == [[7, 14]]
    assert layer("lora", rank=1, alpha=0.5)(x).tolist() == [[4, 8]]
    assert layer("dv_lora", rank=1)(x).tolist() == [[1 + 3 * 6, 2 + 10 * 3 * 12]]


@pytest.mark.parametrize("kind", KINDS)
def test_at_first_it_is_the_network_without_bit_for_bit(kind: str) -> None:
    base, adapted, images = depth(), depth(type=kind), torch.rand(1, 3, 64, 64)
    assert torch.equal(base(images)["disp"][0], adapted(images)["disp"][0])
    state = adapted.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in base.state_dict().items())
    assert {name for name in state if not is_adapter(name)} == base.state_dict().keys()
    for adapter in adapters_of(adapted):
        assert adapter.lora_A.abs().max() <= adapter.in_features**-0.5
        assert not adapter.lora_B.any()
        if kind == "dv_lora":
            assert 0.5 < torch.cat([adapter.lora_U, adapter.lora_V]).abs().max() <= 1


def test_parameters_by_hand() -> None:
    """A DINOv2 of size S: 12 blocks, 384 wide, 1536 inside the MLP. A and B of rank 4 have 4 (in + out) numbers."""
    with torch.device("meta"):
        vit = timm.create_model("vit_small_patch14_dinov2")
    base = count(vit)
    assert base == 22_056_192
    for kind, vectors in (("lora", 0), ("dv_lora", 4 + 1536 + 4 + 384)):
        adapted = copy.deepcopy(vit)
        adapt(adapted, kind)
        own = 12 * (2 * 4 * (384 + 1536) + vectors)  # 184 320 and 207 456
        assert (count(adapted, trained=True), count(adapted)) == (own, base + own)
    adapt(vit, "lora", rank=8, targets=["attn.qkv", "attn.proj"])
    assert count(vit, trained=True) == 12 * 8 * ((384 + 3 * 384) + (384 + 384))


def test_around_the_transformer_everything_is_trained() -> None:
    net = depth(type="lora")
    frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
    assert frozen == {
        name for name, _ in net.encoder.vit.named_parameters(prefix="encoder.vit") if not is_adapter(name)
    }


def dino() -> nn.Sequential:
    """A DINOv2, patches of 14 and layer scale, but two blocks of width 32; behind it a head."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"img_size": 28, "patch_size": 14, "num_classes": 0, "init_values": 1e-1}
    vit = timm.models.VisionTransformer(embed_dim=32, depth=2, num_heads=2, **options)
    return nn.Sequential(vit, nn.Linear(32, 1))


def changed(old: dict[str, Any], new: dict[str, Any]) -> set[str]:
    """The last parts of the names of tensors that differ, "frozen" for those of the transformer itself."""
    names = [name for name in new if not torch.equal(old[name], new[name])]
    return {name[-1] if is_adapter(name) else "head" if name.startswith("1.") else "frozen" for name in names}


@pytest.mark.parametrize("kind", KINDS)
def test_trained_for_50_steps_and_merged_it_is_the_same_network(kind: str) -> None:
    """Half of them in the warm-up of DV-LoRA; the weights of the transformer stay bit for bit."""
    net = dino()
    adapt(net[0], kind, warmup_steps=25)
    images, wanted, states = torch.rand(4, 3, 28, 28), torch.rand(4, 1), [copy.deepcopy(net.state_dict())]
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=1e-2)
    for step in range(50):
        for adapter in adapters_of(net):
            adapter.set_step(step)
        optimizer.zero_grad()
        (net(images) - wanted).square().mean().backward()
        optimizer.step()
        if step in (24, 49):
            states.append(copy.deepcopy(net.state_dict()))
    assert changed(states[0], states[1]) == {"A", "B", "head"}
    assert changed(states[1], states[2]) == ({"U", "V", "head"} if kind == "dv_lora" else {"A", "B", "head"})

    trained = net(images)
    plain, state = dino(), merged_state(net.state_dict(), {"type": kind})
    plain.load_state_dict(state)
    assert (plain[0].blocks[0].mlp.fc1.weight - states[0]["0.blocks.0.mlp.fc1.weight"]).abs().max() > 1e-3
    merge(net)
    for merged in (plain(images), net(images)):
        assert torch.allclose(merged, trained, rtol=0, atol=1e-6)
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    assert not adapters_of(net)


@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_depth_network_predicts_the_same(kind: str) -> None:
    net, images = depth(type=kind, alpha=2).eval(), torch.rand(1, 3, 64, 64)
    for adapter in adapters_of(net):
        nn.init.normal_(adapter.lora_B)
    disp = net(images)["disp"][0]
    assert (disp - depth().eval()(images)["disp"][0]).abs().max() > 1e-5
    assert torch.allclose(merge(net)(images)["disp"][0], disp, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({}, "type: missing. Known: dv_lora, lora"),
        ({"type": "lra"}, "type: 'lra' is not an adapter. Did you mean 'lora'"),
        ({"type": ["lora"]}, "type: ['lora'] is not an adapter"),
        ({"type": "lora", "rank": 65}, "rank: 65 is more than the weight of blocks.0.mlp.fc1 can have, 64"),
        ({"type": "lora", "rnk": 4}, "'rnk' is not one of its keys. Did you mean 'rank'"),
        ({"type": "lora", "rank": 0}, "rank: expected a whole number >= 1, got 0"),
        ({"type": "lora", "alpha": 0}, "alpha: expected a number > 0, or null for the rank; got 0"),
        ({"type": "lora", "targets": "mlp.fc1"}, "targets: expected names of linear layers"),
        ({"type": "dv_lora", "warmup_steps": True}, "warmup_steps: expected a whole number >= 0, got True"),
        (
            {"type": "lora", "targets": ["mlp.fc3"]},
            "'mlp.fc3' matches no linear layer. Did you mean 'mlp.fc2'? Known: a",
        ),
    ],
)
def test_mistakes_name_the_key_and_the_choices(adapter: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="adapter: ") as error:
        models_zoo.create("depth", enc_name="test_vit", pretrained=False, adapter=adapter)
    assert message in str(error.value)


def test_other_encoders_have_none() -> None:
    with pytest.raises(ValueError, match=r"adapter: the encoder is no plain ViT\. Choose e"):
        models_zoo.create("depth", enc_name="test_resnet", pretrained=False, adapter={"type": "lora"})


def test_a_layer_whose_weight_is_read_around_it_is_refused() -> None:
    """BEiT adds the bias of its queries to W x by itself, so an adapter would never be asked."""
    with torch.device("meta"):
        beit = timm.create_model("beit_base_patch16_224")
    with pytest.raises(ValueError, match=r"adapter: targets: attn\.qkv of this ViT cannot be adapted"):
        adapt(beit, "lora", targets=["attn.qkv"])
