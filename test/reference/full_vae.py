"""The autoencoder of Stable Diffusion at its full size with random weights, under build/reference, on a picture of
512 x 512 pixels, whole and in tiles of 256; prints the reference's path, for `verify`. In fp32, as users run it.

    python test/reference/full_vae.py [SEED]
    ./aptp input/verify.cfg --set verify.reference=build/reference/vae_full.h5

Too large to be kept with the fixtures: 340 MB.
"""

import sys

import fixture
import vae

fixture.FOLDER = fixture.Path(__file__).resolve().parents[2] / "build" / "reference"


def main(seed=""):
    network = vae.make("vae_full", seed, block_out_channels=(128, 256, 512, 512), layers_per_block=2, sample_size=768,
                       down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4)
    inputs = vae.inputs_for("vae_full" + seed, network, 1, (512, 512), (64, 64))
    print(vae.write("vae_full", network, inputs, tile=256, double=False))


if __name__ == "__main__":
    main(*sys.argv[1:])
