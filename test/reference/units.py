"""The prunable units of a diffusers UNet2DConditionModel, in METHOD section 2's order, found by walking its modules."""

import json
from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel

import fixture
from layout import Layout


@dataclass
class Unit:
    """One width gate."""

    path: str  # diffusers' module path
    kind: str  # resnet, attention, feed_forward
    module: torch.nn.Module
    width: int  # entries
    depth: int  # index of its depth entry, -1 without one


@dataclass
class DepthUnit:
    """One depth entry: a whole ResNet or transformer that can be dropped."""

    path: str
    kind: str  # resnet, transformer
    module: torch.nn.Module


@dataclass
class Table:
    widths: list
    depths: list
    order: list  # keep order, safest first

    def layout(self):
        return Layout([u.width for u in self.widths], [u.depth for u in self.widths], self.order)


def blocks(unet):
    """(path, block) from the input to the output."""
    down = [(f"down_blocks.{i}", block) for i, block in enumerate(unet.down_blocks)]
    up = [(f"up_blocks.{i}", block) for i, block in enumerate(unet.up_blocks)]
    return [*down, ("mid_block", unet.mid_block), *up]


def table(unet, ff_entries=32):
    widths, depths = [], []
    depths_of_block = {}
    for block_path, block in blocks(unet):
        first = len(depths)
        gated = block_path != "mid_block"

        def depth_entry(path, kind, module, last):
            """Only the last of its kind in a down or up block can be dropped ("half depth")."""
            if not (gated and last):
                return -1
            depths.append(DepthUnit(path, kind, module))
            return len(depths) - 1

        for i, resnet in enumerate(block.resnets):
            path = f"{block_path}.resnets.{i}"
            d = depth_entry(path, "resnet", resnet, i == len(block.resnets) - 1)
            if d >= 0 and block_path.startswith("down") and resnet.in_channels != resnet.out_channels:
                raise ValueError(f"{path} changes the channel count and cannot be dropped")
            widths.append(Unit(path, "resnet", resnet, resnet.norm2.num_groups, d))
        transformers = getattr(block, "attentions", [])
        for i, transformer in enumerate(transformers):
            path = f"{block_path}.attentions.{i}"
            d = depth_entry(path, "transformer", transformer, i == len(transformers) - 1)
            for j, inner in enumerate(transformer.transformer_blocks):
                at = f"{path}.transformer_blocks.{j}"
                widths.append(Unit(f"{at}.attn1", "attention", inner.attn1, inner.attn1.heads, d))
                widths.append(Unit(f"{at}.attn2", "attention", inner.attn2, inner.attn2.heads, d))
                if inner.ff.net[2].in_features % ff_entries:
                    raise ValueError(f"{at}.ff: {inner.ff.net[2].in_features} is not a multiple of {ff_entries}")
                widths.append(Unit(f"{at}.ff", "feed_forward", inner.ff, ff_entries, d))
        depths_of_block[block_path] = list(range(first, len(depths)))
    return Table(widths, depths, keep_order(depths_of_block, len(unet.down_blocks)))


def keep_order(depths_of_block, levels):
    """From outside in; at each level the up block's entries from last to first, then the down block's."""
    order = []
    for level in range(levels):
        order += reversed(depths_of_block[f"up_blocks.{levels - 1 - level}"])
        order += depths_of_block[f"down_blocks.{level}"]
    return order


def sd21():
    """Stable Diffusion 2.1's UNet from its published config, without memory for its weights."""
    config = json.loads((fixture.FOLDER / "sd21" / "config.json").read_text())
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config)
    check_sd21(table(unet))
    return unet


def check_sd21(units):
    """METHOD section 2's own figures."""
    widths, n_depth = [u.width for u in units.widths], len(units.depths)
    assert (sum(widths), n_depth) == (1606, 14), (sum(widths), n_depth)
    assert sum(u.kind == "resnet" for u in units.widths) == 22
    published = [-1, -2, 0, 1, -3, -4, 2, 3, -5, -6, 4, 5, -7, 6]
    assert units.order == [i % n_depth for i in published], units.order
