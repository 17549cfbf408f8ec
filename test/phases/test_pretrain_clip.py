"""Phase pretrain with model clip: what it learns, what it writes, what it refuses. (test_restart.py and test_ranks.py have its restarts
and ranks, test_bad_files.py its broken inputs.)

Usage: test_pretrain_clip.py APTP
"""
import json
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import h5py  # noqa: E402
import numpy  # noqa: E402
from chain import CLIP_VISION, Chain, Checks  # noqa: E402

DECK_FAULT, INPUT_FAULT = 2, 3


def expect_refused(checks, chain, code, message, settings=None, arguments=()):
    result = chain.run("clip", settings=settings, arguments=arguments)
    checks.that(result.returncode == code and message in result.stdout,
                f"{settings}: exit code {result.returncode}, expected {code} and '{message}':\n{result.stdout}")
    checks.that(not chain.path("clip.h5").exists(), f"{settings}: clip.h5 was written")


def write_config(chain, name, **changes):
    chain.path(name).write_text(json.dumps({**CLIP_VISION, **changes}))


def refusals(checks, chain):
    expect_refused(checks, chain, DECK_FAULT, "the key pretrain.clip_vision is missing", {"pretrain.clip_vision": '""'})
    expect_refused(checks, chain, DECK_FAULT, "must be empty for model clip", {"pretrain.initial": "teacher.h5"})
    expect_refused(checks, chain, DECK_FAULT, "the key pretrain.unet is missing", {"pretrain.model": '"unet"'})
    expect_refused(checks, chain, DECK_FAULT, "must divide the batch of 8", {"pretrain.micro_batch": 3})
    for name, code, message, changes in (
            ("size.json", DECK_FAULT, "has image_size 20, the pictures of ./data.h5 are 16 x 16", {"image_size": 20}),
            ("grey.json", DECK_FAULT, "has num_channels 1, pictures have 3", {"num_channels": 1}),
            ("key.json", INPUT_FAULT, "registers: unknown key", {"registers": 4})):
        write_config(chain, name, **changes)
        expect_refused(checks, chain, code, message, {"pretrain.clip_vision": name})
    # A checkpoint of heads of another size has weights of the same shapes.
    chain.path("stop").touch()
    chain.run("clip")
    checks.that(chain.path("clip.checkpoint.h5").exists(), "the file stop left no checkpoint")
    write_config(chain, "clip_vision.json", num_attention_heads=4)
    expect_refused(checks, chain, INPUT_FAULT, "belongs to another network than clip_vision.json")
    write_config(chain, "clip_vision.json")
    chain.remove("clip.checkpoint.h5", "clip.csv")


def learns(checks, chain):
    """48 pictures of 12 kinds in 4 sizes, 3 of 4 to train on: soon a picture's caption is among the nearest. Half of the batch's
    pairs are near each other (colour or shape alike), so the loss falls well below that of guessing among 24."""
    settings = {"pretrain.steps": 60, "pretrain.batch": 24, "pretrain.micro_batch": 24, "pretrain.learning_rate": 5e-3,
                "pretrain.sample_every": 30}
    chain.make("clip", settings=settings)
    with h5py.File(chain.path("clip.h5")) as file, h5py.File(chain.path("data.h5")) as data:
        loss = file["history/loss"][:]
        checks.that(loss[-10:].mean() < 0.6 * numpy.log(24), f"loss {loss[-10:].mean()}, guessing {numpy.log(24)}")
        checks.that(json.loads(file["config"].asstr()[0]) == CLIP_VISION, "the configuration is not that of clip_vision.json")
        checks.that(file["encoder/sentence"].asstr()[0] == data["encoder/sentence"].asstr()[0], "another sentence encoder")
        items, chance = int(file["validation/items"][0]), 1 / data["validation/caption"].shape[0]
        checks.that(items * chance == 1, f"{items} items were measured, {1 / chance} are held out")
        shares = {name: float(file[f"validation/{name}"][0]) for name in file["validation"] if name != "items"}
        checks.that(len(shares) == 4 and all(share * items == round(share * items) for share in shares.values())
                    and all(shares[f"top1_{way}"] <= shares[f"top5_{way}"] for way in ("image_to_text", "text_to_image")),
                    f"{items} items, shares {shares}")
        checks.that("optimizer" not in file and "ema" not in file, "the finished file holds a training's state")
    chain.remove("clip.checkpoint.h5", "clip.csv", "clip.h5")


def nothing_held_out(checks, chain):
    chain.make("prepare", settings={"data.validation_fraction": 0.0, "files.data": "all.h5"})
    chain.make("clip", settings={"files.data": "all.h5", "pretrain.sample_every": 2})
    with h5py.File(chain.path("clip.h5")) as file:
        checks.that("validation" not in file, "retrieval was measured on nothing")
    chain.remove("clip.checkpoint.h5", "clip.csv", "clip.h5")


def only_looks(checks, chain):
    """--check tells the memory of a step and writes nothing."""
    result = chain.run("clip", arguments=["--check"], settings={"run.log": '"normal"'})
    checks.that(result.returncode == 0 and "planned memory a rank" in result.stdout, f"--check says\n{result.stdout}")
    checks.that(not list(chain.folder.glob("clip.*5")), "--check wrote a file")


def main():
    checks = Checks()
    with tempfile.TemporaryDirectory() as folder:
        chain = Chain(sys.argv[1], folder)
        chain.make("prepare")
        only_looks(checks, chain)
        refusals(checks, chain)
        learns(checks, chain)
        nothing_held_out(checks, chain)
    checks.end()


if __name__ == "__main__":
    main()
