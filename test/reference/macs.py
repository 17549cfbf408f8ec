"""Multiply-accumulates of a diffusers UNet, one sample: convolutions, linear layers, attention's two products.

A layer's count is measured by hooks in a run on the meta device, so it follows the network's real shapes. METHOD
sections 2 and 3a say which of them a width gate removes, and which only a depth gate does.
"""

import copy
from dataclasses import dataclass

import numpy as np
import torch
from diffusers.models.attention_processor import Attention

import fixture
import units
from router import budget_target


@dataclass
class Count:
    layers: int  # convolutions and linear layers
    self_products: int
    cross_products: int
    width: np.ndarray  # [U], what a width unit's entries remove together
    depth: np.ndarray  # [n_depth], what only depth removes

    @property
    def total(self):
        return self.layers + self.self_products + self.cross_products

    @property
    def prunable(self):
        return int(self.width.sum() + self.depth.sum())


def measure(unet, height, width, tokens):
    """MACs by module: {path: layer's own} and {path of an attention: its products}."""
    unet = copy.deepcopy(unet).to("meta")
    layers, products, handles = {}, {}, []

    def layer_hook(path):
        def hook(layer, inputs, output):
            fan_in = layer.weight.numel() // layer.weight.shape[0]
            layers[path] = output.numel() * fan_in

        return hook

    def attention_hook(path):
        def hook(attention, inputs, keywords, output):
            hidden, text = inputs[0], keywords.get("encoder_hidden_states")
            keys = hidden if text is None else text
            products[path] = 2 * hidden.shape[1] * keys.shape[1] * attention.to_q.out_features

        return hook

    for path, module in unet.named_modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            handles.append(module.register_forward_hook(layer_hook(path)))
        elif isinstance(module, Attention):
            handles.append(module.register_forward_hook(attention_hook(path), with_kwargs=True))
    latents = torch.empty(1, unet.config.in_channels, height, width, device="meta", dtype=unet.dtype)
    text = torch.empty(1, tokens, unet.config.cross_attention_dim, device="meta", dtype=unet.dtype)
    unet(latents, torch.zeros(1, device="meta"), text)
    return layers, products


def count(unet, height, width, tokens, ff_entries=32):
    layers, products = measure(unet, height, width, tokens)
    table = units.table(unet, ff_entries)

    def under(path, *names):
        return sum(layers.get(f"{path}.{name}", 0) for name in names)

    width_macs = []
    for unit in table.widths:
        if unit.kind == "resnet":
            width_macs.append(under(unit.path, "conv1", "time_emb_proj", "conv2"))
        elif unit.kind == "attention":
            width_macs.append(under(unit.path, "to_q", "to_k", "to_v", "to_out.0") + products[unit.path])
        else:
            width_macs.append(under(unit.path, "net.0.proj", "net.2"))
    depth_macs = [under(unit.path, "conv_shortcut", "proj_in", "proj_out") for unit in table.depths]
    self_products = sum(v for k, v in products.items() if k.endswith("attn1"))
    return Count(sum(layers.values()), self_products, sum(products.values()) - self_products,
                 np.int64(width_macs), np.int64(depth_macs))


def check_sd21(at):
    """METHOD section 2's figures, in units of 1e9, and section 3a's prunable shares."""
    published = {32: (86.27, 3.83, 0.44, 90.55), 64: (339.10, 61.25, 1.78, 402.13), 96: (760.49, 310.06, 4.00, 1074.55)}
    for size, expected_parts in published.items():
        c = at[size]
        for value, expected in zip((c.layers, c.self_products, c.cross_products, c.total), expected_parts):
            assert abs(value / 1e9 - expected) < 0.0051, (size, value, expected)
    for size, share in {32: 0.858, 96: 0.892}.items():
        assert abs(at[size].prunable / at[size].total - share) < 0.0005
    for size, target in {32: 0.604, 96: 0.619}.items():
        assert abs(budget_target(0.66, at[size].total, at[size].prunable) - target) < 0.0005


def paper_convention(unet, size):
    """The released counter's way, as METHOD words it: layers at one text token, and self-attention's products twice."""
    c = count(unet, size, size, 1)
    return c.layers + 2 * c.self_products


def main():
    unet = units.sd21()
    sizes, tokens = (32, 64, 96), 77
    at = {size: count(unet, size, size, tokens) for size in sizes}
    check_sd21(at)
    paper = [paper_convention(unet, size) for size in sizes]
    assert abs(paper[-1] / 1e9 - 1378.7) < 0.06, paper
    for size, c, other in zip(sizes, at.values(), paper):
        parts = " + ".join(f"{part / 1e9:.2f}" for part in (c.layers, c.self_products, c.cross_products))
        print(f"    {size}x{size}: {parts} = {c.total / 1e9:.2f} G, prunable {c.prunable / c.total:.4f}, "
              f"paper's convention {other / 1e9:.2f} G")

    table = units.table(unet)
    outputs = dict(
        latents=np.int64(sizes),
        layers=np.int64([c.layers for c in at.values()]),
        self_products=np.int64([c.self_products for c in at.values()]),
        cross_products=np.int64([c.cross_products for c in at.values()]),
        total=np.int64([c.total for c in at.values()]),
        prunable=np.int64([c.prunable for c in at.values()]),
        paper_total=np.int64(paper),
        width_macs=np.stack([c.width for c in at.values()]),  # [resolutions, U]
        depth_macs=np.stack([c.depth for c in at.values()]),  # [resolutions, n_depth]
        unit_path=[u.path for u in table.widths],
        unit_width=np.int64([u.width for u in table.widths]),
        unit_depth=np.int64([u.depth for u in table.widths]),
        depth_path=[u.path for u in table.depths],
        order=np.int64(table.order),
    )
    fixture.write("macs_sd21", "macs", dict(folder="sd21", tokens=tokens), outputs=outputs)


if __name__ == "__main__":
    main()
