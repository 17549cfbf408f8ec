"""InceptionV3 at its full size with random weights, under build/reference; prints the reference's path, for `verify`.

    python test/reference/full_inception.py
    ./aptp input/verify.cfg --set verify.reference=build/reference/inception_full.h5

Too large to be kept with the fixtures. The weights pass through a pickle in the published form and postproc/inception_weights.py.
"""

import fixture
import inception

fixture.FOLDER = fixture.Path(__file__).resolve().parents[2] / "build" / "reference"


def main():
    network = inception.make_folder("inception_full", 1)
    path = inception.write("inception_full", "inception_full", network, 2, 299, 299)
    print(path)


if __name__ == "__main__":
    main()
