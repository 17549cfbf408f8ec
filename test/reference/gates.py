"""Gates on a diffusers UNet, by hooks, and the physically sliced network they must equal (METHOD section 2).

Gates are a dictionary of module paths: "<path>" [B, entries] for a width gate, "<path>.depth" [B] for a depth gate.
"""

import contextlib
import copy

import torch


def from_vector(vector, units):
    """Vectors [B, n] in the order of the units -> the dictionary. Views: gradients flow back to the vector."""
    gates, start = {}, 0
    for unit in units.widths:
        gates[unit.path] = vector[:, start : start + unit.width]
        start += unit.width
    for unit in units.depths:
        gates[f"{unit.path}.depth"] = vector[:, start]
        start += 1
    return gates


@contextlib.contextmanager
def gated(units, gates):
    """Inside, the network that the units belong to runs with these gates."""
    handles = []
    for unit in units.widths:
        gate = gates[unit.path]
        # Each hook sits on the layer that consumes what is gated: conv2 sees SiLU(norm2(.)), to_out the heads' outputs
        # side by side, the last linear layer the GEGLU product.
        if unit.kind == "resnet":
            handles.append(unit.module.conv2.register_forward_pre_hook(multiply_channels(gate)))
        elif unit.kind == "attention":
            handles.append(unit.module.to_out[0].register_forward_pre_hook(multiply_last(gate)))
        else:
            handles.append(unit.module.net[2].register_forward_pre_hook(multiply_last(gate)))
    for unit in units.depths:
        handles.append(unit.module.register_forward_hook(mix(gates[f"{unit.path}.depth"])))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def multiply_channels(gate):
    def hook(_, inputs):
        (x,) = inputs  # [B, C, H, W]
        return (x * gate.repeat_interleave(x.shape[1] // gate.shape[1], dim=1)[:, :, None, None],)

    return hook


def multiply_last(gate):
    def hook(_, inputs):
        (x,) = inputs  # [B, T, C]
        return (x * gate.repeat_interleave(x.shape[2] // gate.shape[1], dim=1)[:, None, :],)

    return hook


def passed_through(x, channels):
    """What a dropped unit hands on. In an up block the ResNet's input is [hidden state, skip]; the skip is left out."""
    return x[:, :channels]


def mix(gate):
    def hook(_, inputs, output):
        d = gate[:, None, None, None]
        y = output[0] if isinstance(output, tuple) else output
        y = (1 - d) * passed_through(inputs[0], y.shape[1]) + d * y
        return (y,) if isinstance(output, tuple) else y

    return hook


# ---- slicing


class Dropped(torch.nn.Module):
    """In the place of a unit with depth 0."""

    def __init__(self, channels, as_tuple):
        super().__init__()
        self.channels, self.as_tuple = channels, as_tuple

    def forward(self, x, *_, **__):
        x = passed_through(x, self.channels)
        return (x,) if self.as_tuple else x


def keep_rows(layer, index):
    """Keeps output features of a linear layer or a convolution."""
    layer.weight = torch.nn.Parameter(layer.weight.detach()[index].clone())
    if layer.bias is not None:
        layer.bias = torch.nn.Parameter(layer.bias.detach()[index].clone())


def keep_columns(layer, index):
    """Keeps input features."""
    layer.weight = torch.nn.Parameter(layer.weight.detach()[:, index].clone())


def slice_resnet(resnet, keep):
    size = resnet.norm2.num_channels // len(keep)
    index = expand(keep, size)
    keep_rows(resnet.conv1, index)
    keep_rows(resnet.time_emb_proj, index)
    keep_rows(resnet.norm2, index)
    keep_columns(resnet.conv2, index)
    resnet.norm2.num_groups, resnet.norm2.num_channels = int(keep.sum()), len(index)


def slice_attention(attention, keep):
    index = expand(keep, attention.to_q.out_features // len(keep))
    for layer in (attention.to_q, attention.to_k, attention.to_v):
        keep_rows(layer, index)
    keep_columns(attention.to_out[0], index)
    attention.heads = int(keep.sum())


def slice_feed_forward(feed_forward, keep):
    inner = feed_forward.net[2].in_features
    index = expand(keep, inner // len(keep))
    keep_rows(feed_forward.net[0].proj, torch.cat([index, index + inner]))  # values, then what GELU acts on
    keep_columns(feed_forward.net[2], index)


def expand(keep, size):
    """Entries kept -> indices of the channels kept."""
    return torch.nonzero(keep.repeat_interleave(size)).flatten()


def sliced(unet, table_of, gates):
    """A smaller copy of the network. gates: 0/1, one row; table_of(unet) gives the units of a network."""
    small = copy.deepcopy(unet)
    units = table_of(small)
    slicers = dict(resnet=slice_resnet, attention=slice_attention, feed_forward=slice_feed_forward)
    for unit in units.widths:
        slicers[unit.kind](unit.module, gates[unit.path][0] > 0.5)
    for unit in units.depths:
        if gates[f"{unit.path}.depth"][0] < 0.5:
            resnet = unit.kind == "resnet"
            channels = unit.module.out_channels if resnet else unit.module.in_channels
            parent, _, name = unit.path.rpartition(".")
            small.get_submodule(parent)[int(name)] = Dropped(channels, as_tuple=not resnet)
    return small
