"""The autoencoder of Stable Diffusion by diffusers' AutoencoderKL, on tiny random models: whole and in tiles.

A reference of model "vae" has inputs/image and inputs/latent, outputs/mean, logvar (bounded as diffusers does) and
decoded (no scaling factor). With the root attributes tile_sample_min_size (pixels) and tile_overlap_factor, which are
diffusers' own, it also has tiled_mean, tiled_logvar and tiled_decoded: what enable_tiling() makes of the same inputs.
"""

import json

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

import fixture

# The attention of the middle block as diffusers named it before version 0.15.
OLD_NAMES = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}


def gain_of(key):
    if "conv_in." in key:
        return 0.02  # variances so small that the norms' epsilon shows
    if ".to_q." in key or ".to_k." in key:
        return 1.5  # attention far from an average
    if "conv2." in key or ".to_out." in key:
        return 0.7  # residual branches small enough that the hidden state stays of order one
    if key == "quant_conv.weight":
        return 25  # log-variances within the bounds and beyond, on both sides
    return 1.3


def make(name, seed="", **config):
    """A random autoencoder, saved as a published folder."""
    generator = torch.Generator().manual_seed(int(fixture.generator(name + seed).integers(2**31)))
    vae = AutoencoderKL(**config).eval()
    with torch.no_grad():
        for key, weight in vae.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if "norm" in key:  # as built these are ones and zeros, which would hide a wrong index
                weight.copy_(noise * 0.3 + key.endswith("weight"))
            elif key.endswith("bias"):
                weight.copy_(noise * 0.2 * min(gain_of(key), 1))
            else:
                weight.copy_(noise * gain_of(key) / weight[0].numel() ** 0.5)
    vae.save_pretrained(fixture.FOLDER / name)
    return vae


def inputs_for(name, vae, samples, image, latent):
    rng = fixture.generator(name + " inputs")
    config = vae.config
    return dict(image=torch.tensor(rng.uniform(-1, 1, (samples, config.in_channels, *image)), dtype=torch.float32),
                latent=torch.tensor(rng.standard_normal((samples, config.latent_channels, *latent)) * 2,
                                    dtype=torch.float32))


def outputs_of(vae, inputs, prefix=""):
    with torch.no_grad():
        moments = vae.encode(inputs["image"].to(vae.dtype)).latent_dist
        decoded = vae.decode(inputs["latent"].to(vae.dtype)).sample
    return {prefix + "mean": moments.mean, prefix + "logvar": moments.logvar, prefix + "decoded": decoded}


def tiled_outputs_of(vae, inputs, tile, overlap):
    vae.enable_tiling()
    vae.tile_sample_min_size = tile
    vae.tile_latent_min_size = tile // 2 ** (len(vae.config.block_out_channels) - 1)
    vae.tile_overlap_factor = overlap
    outputs = outputs_of(vae, inputs, "tiled_")
    vae.disable_tiling()
    return outputs


def write(name, vae, inputs, folder=None, tile=0, overlap=0.25, double=True):
    """In float64, and what fp32 is off; or in fp32 alone."""
    single = outputs_of(vae, inputs)
    if double:
        vae.double()
    outputs = outputs_of(vae, inputs) if double else dict(single)
    attributes = dict(folder=folder or name)
    if tile:
        attributes.update(tile_sample_min_size=tile, tile_overlap_factor=overlap)
        outputs.update(tiled_outputs_of(vae, inputs, tile, overlap))
        assert (outputs["tiled_decoded"] - outputs["decoded"]).abs().max() > 0.01 * outputs["decoded"].abs().max()
    vae.float()
    path = fixture.write(name, "vae", attributes, inputs=inputs, outputs=fixture.single(outputs))
    for key, value in single.items() if double else ():
        error = (value - outputs[key]).abs().max() / outputs[key].abs().max()
        print(f"    {key}: PyTorch fp32 {error:.1e}, deviation {outputs[key].std():.2f}")
    bounded = [(outputs["logvar"] == limit).double().mean() for limit in (-30, 20)]
    print(f"    at the bounds of logvar: {bounded[0]:.2f}, {bounded[1]:.2f}")
    assert 0 < bounded[0] < 0.4 and 0 < bounded[1] < 0.4
    return path


def rename(key):
    for new, old in OLD_NAMES.items():
        key = key.replace(new, old)
    return key


def write_old(name, vae):
    """The weights under the old names: the decoder's attention as matrices, which diffusers reads too; the encoder's
    as the 1x1 convolutions that they were before diffusers."""
    path = fixture.FOLDER / name / "diffusion_pytorch_model.safetensors"
    weights = {rename(key): weight for key, weight in load_file(path).items()}
    assert len(weights.keys() - vae.state_dict().keys()) == 16
    save_file(weights, path, metadata={"format": "pt"})
    again = AutoencoderKL.from_pretrained(path.parent, low_cpu_mem_usage=False).state_dict()
    assert all(torch.equal(again[key], weight) for key, weight in vae.state_dict().items())
    for key, weight in weights.items():
        if key.startswith("encoder.mid_block.attentions") and weight.ndim == 2:
            weights[key] = weight[:, :, None, None].contiguous()
    save_file(weights, path, metadata={"format": "pt"})
    # A config of that time has fewer keys.
    path = fixture.FOLDER / name / "config.json"
    config = json.loads(path.read_text())
    for key in ("force_upcast", "latents_mean", "latents_std", "mid_block_add_attention", "scaling_factor",
                "shift_factor", "use_post_quant_conv", "use_quant_conv"):
        del config[key]
    config["_diffusers_version"] = "0.2.2"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def main():
    # Three levels, odd channel counts, maps that are not square. The tiles of 4 x 4 latents begin every 3; the last
    # ones are cut, to one latent in the picture's width.
    odd = make("vae_odd", block_out_channels=(9, 15, 21), layers_per_block=1, norm_num_groups=3, sample_size=24,
               scaling_factor=0.13025, down_block_types=["DownEncoderBlock2D"] * 3,
               up_block_types=["UpDecoderBlock2D"] * 3)
    write("vae_odd", odd, inputs_for("vae_odd", odd, 2, (20, 40), (5, 7)), tile=16)
    # Larger overlaps, of half a tile, in a picture of one tile's height.
    write("vae_odd_half", odd, inputs_for("vae_odd_half", odd, 1, (24, 48), (6, 13)), folder="vae_odd", tile=24,
          overlap=0.5)
    # Two levels of two layers, five latent channels, one channel a group at the outer level, grey pictures to two
    # channels; the names of older versions.
    old = make("vae_old", in_channels=1, out_channels=2, latent_channels=5, block_out_channels=(4, 8),
               layers_per_block=2, norm_num_groups=4, sample_size=8, down_block_types=["DownEncoderBlock2D"] * 2,
               up_block_types=["UpDecoderBlock2D"] * 2)
    write("vae_old", old, inputs_for("vae_old", old, 1, (6, 10), (3, 4)))
    write_old("vae_old", old)


if __name__ == "__main__":
    main()
