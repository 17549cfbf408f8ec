"""InceptionV3 as FID uses it: pytorch-fid's own network with random weights, which aptp reads by way of the converted pickle.

The published weights are not needed: the network's source is pytorch-fid's and torchvision's, the weights are random ones under the
published names. A narrow network is the same graph with every layer's channels divided.
"""

import sys
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from pytorch_fid import inception as published
from torchvision.models.inception import BasicConv2d

import fixture

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "postproc"))
import inception_weights  # noqa: E402


def make_network(divisor):
    """pytorch-fid's network without a download, its channels divided."""
    with mock.patch.object(published, "load_state_dict_from_url", return_value={}), mock.patch.object(torch.nn.Module, "load_state_dict"):
        network = published.fid_inception_v3()
    for module in network.modules():
        if divisor > 1 and isinstance(module, BasicConv2d):
            old = module.conv
            channels = old.in_channels if old.in_channels == 3 else old.in_channels // divisor
            module.conv = torch.nn.Conv2d(channels, old.out_channels // divisor, old.kernel_size, old.stride, old.padding, bias=False)
            module.bn = torch.nn.BatchNorm2d(old.out_channels // divisor, eps=module.bn.eps)
    return network.eval()


def randomise(network, name):
    """Weights under which values keep their size from layer to layer, and no part of a norm is lost."""
    generator = torch.Generator().manual_seed(int(fixture.generator(name).integers(2**31)))

    def normal(like, scale, mean=0.0):
        return mean + scale * torch.randn(like.shape, generator=generator)

    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, BasicConv2d):
                module.conv.weight.copy_(normal(module.conv.weight, (2 / module.conv.weight[0].numel()) ** 0.5))
                module.bn.weight.copy_(normal(module.bn.weight, 0.2, 1.0))
                module.bn.bias.copy_(normal(module.bn.bias, 0.1))
                module.bn.running_mean.copy_(normal(module.bn.running_mean, 0.1))
                module.bn.running_var.copy_(0.5 + torch.rand(module.bn.running_var.shape, generator=generator))


def make_folder(name, divisor):
    """FOLDER/<name>/ by the tool, from a pickle like the published one; the network."""
    network = make_network(divisor)
    randomise(network, name)
    fixture.FOLDER.mkdir(parents=True, exist_ok=True)
    pickle = fixture.FOLDER / f"{name}.pth"
    torch.save(network.state_dict(), pickle)
    inception_weights.convert(pickle, fixture.FOLDER / name)
    pickle.unlink()
    return network


def write(name, folder, network, samples, height, width):
    """Features of random pictures: of few colours, so that they are smooth as pictures are, with noise."""
    rng = fixture.generator(name)
    coarse = torch.tensor(rng.uniform(0, 255, (samples, 3, 5, 6)), dtype=torch.float32)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    noise = torch.tensor(rng.uniform(-20, 20, (samples, 3, height, width)), dtype=torch.float32)
    image = (smooth + noise).clamp(0, 255)
    with mock.patch.object(published, "fid_inception_v3", return_value=network):
        model = published.InceptionV3([3], resize_input=False).eval()
    with torch.no_grad():
        single = model(image / 255)[0].flatten(1)
        features = model.double()(image.double() / 255)[0].flatten(1)
    model.float()
    spread = (features[0] - features[-1]).abs().max() / features.abs().max() if samples > 1 else np.nan
    print(f"    features {features.mean():.3g} +- {features.std():.3g}, two pictures apart by {spread:.2g} of the largest; "
          f"{(features == 0).double().mean():.0%} are 0; PyTorch fp32: {(single - features).abs().max() / features.abs().max():.1e}")
    return fixture.write(name, "inception", dict(folder=folder), inputs=dict(image=image), outputs=fixture.single(dict(features=features)))


def main():
    network = make_folder("inception_narrow", 16)
    write("inception_narrow", "inception_narrow", network, 2, 107, 139)  # 2 x 3 cells before the mean
    write("inception_narrow_least", "inception_narrow", network, 3, 75, 75)  # one cell: the pools see padding around it


if __name__ == "__main__":
    main()
