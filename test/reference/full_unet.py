"""The UNet of Stable Diffusion 2.1 at its full size, 865.9 M parameters, with random weights: a published folder and its reference in
build/reference, at latents of 512 x 512 pixels and 77 tokens; prints the reference's path, for `verify`.

    python test/reference/full_unet.py
    ./aptp input/verify.cfg --set verify.reference=build/reference/unet_full.h5

Too large to be kept with the fixtures: 3.5 GB. Computed in float64 like the small ones, which takes 8 GB of memory.
"""

import json

import torch

import fixture
import unet

CONFIG = fixture.FOLDER / "sd21" / "config.json"
SIZE, TOKENS = (64, 64), 77

fixture.FOLDER = fixture.Path(__file__).resolve().parents[2] / "build" / "reference"


def main():
    config = {key: value for key, value in json.loads(CONFIG.read_text()).items() if not key.startswith("_")}
    network = unet.make("unet_full", config)
    inputs = unet.inputs_for("unet_full", config, 1, TOKENS, SIZE)
    del inputs["target"]  # no loss: the whole network's gradients would be another 7 GB
    with torch.no_grad():
        sample = network(inputs["latents"].double(), inputs["timesteps"], inputs["text_states"].double()).sample
    print(fixture.write("unet_full", "unet", dict(folder="unet_full"), inputs=fixture.single(inputs),
                        outputs=fixture.single(dict(sample=sample))))


if __name__ == "__main__":
    main()
