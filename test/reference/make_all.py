"""Makes every fixture again: `make_all.py` into test/fixtures, or into the folder named by APTP_FIXTURES.

The same library versions give the same bytes; README.md names the versions.
"""

import shutil

import clip
import clip_text
import fixture
import inception
import macs
import metric_networks
import metrics
import pipeline
import prepared
import prune_step
import resize
import router
import samplers
import text
import unet
import vae

LIMIT = 30_000_000  # bytes of all fixtures together; they live in the repository


def main():
    # The one fixture that is written by hand: a published config.
    if not (fixture.FOLDER / "sd21").exists():
        here = fixture.Path(__file__).resolve().parent.parent / "fixtures" / "sd21"
        shutil.copytree(here, fixture.FOLDER / "sd21")
    modules = (router, metrics, samplers, macs, unet, prune_step, text, resize, clip, inception, vae, clip_text, pipeline, prepared, metric_networks)
    for module in modules:
        print(module.__name__)
        module.main()
    size = sum(path.stat().st_size for path in fixture.FOLDER.rglob("*") if path.is_file())
    print(f"all fixtures: {size:,d} bytes")
    assert size < LIMIT


if __name__ == "__main__":
    main()
