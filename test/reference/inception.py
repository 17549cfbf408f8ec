"""InceptionV3 as FID uses it: pytorch-fid's own network with random weights, which aptp reads by way of the converted pickle.

The published weights are not needed: the network's source is pytorch-fid's and torchvision's, the weights are random ones under the
published names. A narrow network is the same graph with every layer's channels divided.
"""

import sys
from pathlib import Path
from unittest import mock

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


def features_of(network, image):
    """pytorch-fid's features [B, F] of pictures with values of 0..255."""
    with mock.patch.object(published, "fid_inception_v3", return_value=network):
        model = published.InceptionV3([3], resize_input=False).train(network.training)
    return model(image / 255)[0].flatten(1)


def random_pictures(rng, samples, height, width):
    """A few colours that flow into each other, as in pictures, and noise; values of 0..255 with fractions."""
    colours = torch.tensor(rng.uniform(0, 255, (samples, 3, 5, 6)), dtype=torch.float32)
    smooth = torch.nn.functional.interpolate(colours, (height, width), mode="bilinear")
    noise = torch.tensor(rng.uniform(-20, 20, (samples, 3, height, width)), dtype=torch.float32)
    return (smooth + noise).clamp(0, 255)


def randomise(network, rng):
    """Random weights; statistics that are nearly those of some pictures, as in a trained network: few channels are zero everywhere."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))

    def spread(parameter, scale, mean=0.0):
        parameter.copy_(mean + scale * torch.randn(parameter.shape, generator=generator))

    layers = [module for module in network.modules() if isinstance(module, BasicConv2d)]
    with torch.no_grad():
        for layer in layers:
            spread(layer.conv.weight, (2 / layer.conv.weight[0].numel()) ** 0.5)
            spread(layer.bn.weight, 0.2, 1.0)
            spread(layer.bn.bias, 0.2, 1.0)
            layer.bn.momentum = 1.0  # the statistics of the one batch that follows
        features_of(network.train(), random_pictures(rng, 6, 107, 139))
        for layer in layers:
            deviation = layer.bn.running_var.sqrt()
            layer.bn.running_mean += 0.1 * deviation * torch.randn(deviation.shape, generator=generator)
            layer.bn.running_var *= 0.7 + 0.6 * torch.rand(deviation.shape, generator=generator)
    return network.eval()


def make_folder(name, divisor):
    """FOLDER/<name>/ by the tool, from a pickle like the published one; the network."""
    network = randomise(make_network(divisor), fixture.generator(name + " weights"))
    fixture.FOLDER.mkdir(parents=True, exist_ok=True)
    pickle = fixture.FOLDER / f"{name}.pth"
    torch.save(network.state_dict(), pickle)
    inception_weights.convert(pickle, fixture.FOLDER / name)
    pickle.unlink()
    return network


def write(name, folder, network, samples, height, width):
    """Features of random pictures."""
    image = random_pictures(fixture.generator(name), samples, height, width)
    with torch.no_grad():
        single = features_of(network.float(), image)
        features = features_of(network.double(), image.double())
    network.float()
    largest = features.abs().max()
    print(f"    two pictures apart by {(features[0] - features[-1]).abs().max() / largest:.2g} of the largest feature, "
          f"{(features == 0).double().mean():.0%} are 0; PyTorch fp32: {(single - features).abs().max() / largest:.1e}")
    return fixture.write(name, "inception", dict(folder=folder), inputs=dict(image=image), outputs=fixture.single(dict(features=features)))


def main():
    network = make_folder("inception_narrow", 16)
    write("inception_narrow", "inception_narrow", network, 2, 107, 139)  # 2 x 3 cells before the mean
    write("inception_narrow_least", "inception_narrow", network, 3, 75, 75)  # one cell: the pools see padding around it


if __name__ == "__main__":
    main()
