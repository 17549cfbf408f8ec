"""UNets of diffusers' UNet2DConditionModel: outputs, gradients, gates, slices.

Weights are kept as fp32, everything is computed in float64: the reference's own rounding does not enter the
comparison. What PyTorch's fp32 would have been off is printed.
"""

import copy
import shutil

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

import fixture
import gates as gating
import units

SD2 = dict(  # linear projections, a head count for each level, innermost level without attention
    sample_size=16, in_channels=4, out_channels=4, layers_per_block=2, norm_num_groups=4,
    block_out_channels=(8, 16, 24), attention_head_dim=(2, 4, 3), cross_attention_dim=20, use_linear_projection=True,
    down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
)
SD1 = dict(  # convolution projections, 8 heads everywhere; at the outer level one channel a group and one a head
    sample_size=8, in_channels=4, out_channels=4, layers_per_block=2, norm_num_groups=8,
    block_out_channels=(8, 24), attention_head_dim=8, cross_attention_dim=18,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
)
ODD = dict(  # one layer a block, outermost level without attention, other channels out than in
    sample_size=12, in_channels=3, out_channels=5, layers_per_block=1, norm_num_groups=5,
    block_out_channels=(10, 15, 20), attention_head_dim=(2, 5, 4), cross_attention_dim=14, use_linear_projection=True,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
)


def gain_of(key):
    if ".to_q." in key or ".to_k." in key:
        return 1.5  # attention far from an average
    if any(end in key for end in ("conv2.", "to_out.", "net.2.", "proj_out.")):
        return 0.7  # residual branches small enough that the hidden state stays of order one
    return 1.0


def make(name, config):
    """A random UNet, saved as a published folder; returned in float64."""
    generator = torch.Generator().manual_seed(int(fixture.generator(name).integers(2**31)))
    unet = UNet2DConditionModel(**config).eval()
    for key, weight in unet.named_parameters():
        with torch.no_grad():
            if "norm" in key:  # as built these are ones and zeros, which would hide a wrong index
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3 + key.endswith("weight"))
            elif key.endswith("bias"):
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
            else:
                gain = gain_of(key)
                weight.copy_(torch.randn(weight.shape, generator=generator) * gain / weight[0].numel() ** 0.5)
    folder = fixture.FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    unet.save_pretrained(folder)
    return unet.double()


def inputs_for(name, config, B, T, size, text_mask=None):
    rng = fixture.generator(name + " inputs")
    values = dict(
        latents=rng.standard_normal((B, config["in_channels"], *size)),
        timesteps=rng.integers(0, 1000, B),
        text_states=rng.standard_normal((B, T, config["cross_attention_dim"])),
        target=rng.standard_normal((B, config["out_channels"], *size)),
    )
    if text_mask is not None:
        values["text_mask"] = np.int64(text_mask)
    # What is stored is fp32, so that is what the reference computes with.
    return {k: torch.tensor(np.float32(v) if v.dtype == float else v) for k, v in values.items()}


def run(unet, inputs, dtype=torch.float64):
    """sample, loss and the leaves latents and text_states."""
    leaves = {k: inputs[k].to(dtype).requires_grad_() for k in ("latents", "text_states")}
    mask = inputs.get("text_mask")
    sample = unet(leaves["latents"], inputs["timesteps"], leaves["text_states"], encoder_attention_mask=mask).sample
    loss = ((sample - inputs["target"].to(dtype)) ** 2).mean()
    return sample, loss, leaves


def backward(loss, leaves):
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()))))


def reference(unet, inputs, dtype=torch.float64, weights=True):
    """outputs and gradients of the network and its two inputs."""
    sample, loss, leaves = run(unet, inputs, dtype)
    if weights:
        leaves = {**dict(unet.named_parameters()), **leaves}
    return dict(sample=sample, loss=loss), backward(loss, leaves)


def relative_error(a, b, scale=None):
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).abs().max() / (b.abs().max() if scale is None else scale))


def print_fp32_error(unet, inputs, outputs, gradients):
    """What PyTorch's own fp32 is off, measured as `verify` measures."""
    other_outputs, other = reference(copy.deepcopy(unet).float(), inputs, torch.float32)
    scale = max(g.abs().max() for g in gradients.values())
    worst = max(relative_error(other[k], gradients[k], scale) for k in gradients)
    print(f"    PyTorch fp32: sample {relative_error(other_outputs['sample'], outputs['sample']):.1e}, gradients {worst:.1e}")


def write_plain(name, folder, unet, inputs, weights=True):
    outputs, gradients = reference(unet, inputs, weights=weights)
    fixture.write(name, "unet", dict(folder=folder), inputs=fixture.single(inputs), outputs=fixture.single(outputs),
                  gradients=fixture.single(gradients))
    if weights:
        print_fp32_error(unet, inputs, outputs, gradients)


def write_gated(name, folder, unet, units_of, inputs, vector, attributes):
    """vector [B, n]: gates in the order of the units."""
    vector = vector.float().double()
    table = units_of(unet)
    gates = {k: v.clone().requires_grad_() for k, v in gating.from_vector(vector, table).items()}
    with gating.gated(table, gates):
        sample, loss, leaves = run(unet, inputs)
    gradients = backward(loss, {**gates, **leaves})
    gate_gradients = {k: gradients.pop(k) for k in gates}
    fixture.write(name, "unet", dict(folder=folder, **attributes), inputs=fixture.single(inputs),
                  outputs=fixture.single(dict(sample=sample, loss=loss)), gates=fixture.single(gates),
                  gate_gradients=fixture.single(gate_gradients), gradients=fixture.single(gradients))
    return gates, sample


def hard_vector(rng, table, dropped):
    """One row of 0/1 entries [1, n]. At least one entry of a unit stays; dropped: indices of depth entries."""
    parts = []
    for unit in table.widths:
        part = (rng.uniform(size=unit.width) < 0.6).astype(float)
        part[rng.integers(unit.width)] = 1
        parts.append(part)
    parts.append(np.array([float(i not in dropped) for i in range(len(table.depths))]))
    return torch.tensor(np.concatenate(parts))[None]


def check_exactness(unet, units_of, inputs, rng):
    """Every sample with a mask of its own equals its own slice; returns the largest relative error."""
    table, B = units_of(unet), len(inputs["latents"])
    n_depth = len(table.depths)
    vector = torch.cat([hard_vector(rng, table, set(rng.permutation(n_depth)[: n_depth // 2])) for _ in range(B)])
    with gating.gated(table, gating.from_vector(vector, table)):
        masked = run(unet, inputs)[0]
    worst = 0.0
    for b in range(B):
        alone = {k: v[b : b + 1] for k, v in inputs.items()}
        small = gating.sliced(unet, units_of, gating.from_vector(vector[b : b + 1], table))
        worst = max(worst, relative_error(masked[b : b + 1], run(small, alone)[0]))
    assert worst < 1e-10, worst  # in float64; the gate's exactness is exact
    return worst


def write_sliced(name, folder, unet, units_of, inputs, gates, masked, attributes):
    """Really smaller arrays. Units of depth 0 have none."""
    small = gating.sliced(unet, units_of, gates)
    outputs, gradients = reference(small, inputs)
    error = relative_error(masked, outputs["sample"])
    assert error < 1e-10, error
    count = [sum(p.numel() for p in net.parameters()) for net in (unet, small)]
    fixture.write(name, "unet_sliced", dict(folder=folder, **attributes), inputs=fixture.single(inputs),
                  outputs=fixture.single(outputs), gates=fixture.single(gates),
                  weights=fixture.single(small.state_dict()), gradients=fixture.single(gradients))
    print(f"    mask = slice to {error:.1e}; parameters {count[0]:,d} -> {count[1]:,d}")
    return small


def write_expert(name, folder, small, inputs, gates, attributes):
    """The sliced network as a folder of its own, as phase export writes it: the whole one's config.json, sliced arrays."""
    own = fixture.FOLDER / name
    own.mkdir(parents=True, exist_ok=True)
    shutil.copy(fixture.FOLDER / folder / "config.json", own)
    weights = {key: value.float().contiguous() for key, value in small.state_dict().items()}
    save_file(weights, own / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    outputs, gradients = reference(small, inputs, weights=False)
    fixture.write(name, "unet_expert", dict(folder=name, **attributes), inputs=fixture.single(inputs),
                  outputs=fixture.single(outputs), gates=fixture.single(gates), gradients=fixture.single(gradients))


def main():
    # Stable Diffusion 2's kind: plain, gated with soft values, with hard ones, and sliced.
    sd2 = make("unet_sd2", SD2)
    inputs = inputs_for("unet_sd2", SD2, B=2, T=7, size=(16, 16))
    write_plain("unet_sd2", "unet_sd2", sd2, inputs)

    attributes = dict(ff_entries=32)
    units_of = units.table
    table = units_of(sd2)
    rng = fixture.generator("unet_sd2 gates")
    three = inputs_for("unet_sd2_gated", SD2, B=3, T=5, size=(8, 12))
    soft = torch.tensor(rng.uniform(0.05, 0.95, (3, table.layout().n)))
    write_gated("unet_sd2_gated", "unet_sd2", sd2, units_of, three, soft, attributes)
    print(f"    mask = slice, one mask a sample: {check_exactness(sd2, units_of, three, rng):.1e}")

    dropped = {"down_blocks.0.attentions.1", "down_blocks.1.resnets.1", "up_blocks.0.resnets.2", "up_blocks.1.attentions.2",
               "up_blocks.2.resnets.2"}
    row = hard_vector(rng, table, {i for i, unit in enumerate(table.depths) if unit.path in dropped})
    gates, sample = write_gated("unet_sd2_hard", "unet_sd2", sd2, units_of, inputs, row.expand(2, -1), attributes)
    small = write_sliced("unet_sd2_sliced", "unet_sd2", sd2, units_of, inputs, gates, sample, attributes)
    write_expert("unet_sd2_expert", "unet_sd2", small, inputs, gates, attributes)

    # Stable Diffusion 1's kind.
    sd1 = make("unet_sd1", SD1)
    inputs = inputs_for("unet_sd1", SD1, B=2, T=6, size=(8, 8))
    write_plain("unet_sd1", "unet_sd1", sd1, inputs)
    units_of = lambda unet: units.table(unet, 16)  # noqa: E731, a count other than the default
    rng = fixture.generator("unet_sd1 gates")
    soft = torch.tensor(rng.uniform(0.05, 0.95, (2, units_of(sd1).layout().n)))
    write_gated("unet_sd1_gated", "unet_sd1", sd1, units_of, inputs, soft, dict(ff_entries=16))
    print(f"    mask = slice, one mask a sample: {check_exactness(sd1, units_of, inputs, rng):.1e}")

    # An odd one, with a text mask, at sizes that halve evenly and at one that does not.
    odd = make("unet_odd", ODD)
    mask = [[1, 1, 1, 1, 0, 0, 0, 0, 0]]
    write_plain("unet_odd", "unet_odd", odd, inputs_for("unet_odd", ODD, B=1, T=9, size=(12, 20), text_mask=mask))
    mask = [[1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0]]
    uneven = inputs_for("unet_odd_uneven", ODD, B=3, T=4, size=(10, 7), text_mask=mask)
    write_plain("unet_odd_uneven", "unet_odd", odd, uneven, weights=False)
    try:
        units.table(odd, 5)
    except ValueError as refused:
        assert str(refused) == "down_blocks.1.resnets.0 changes the channel count and cannot be dropped"
    else:
        raise AssertionError("a config that cannot be pruned was accepted")


if __name__ == "__main__":
    main()
