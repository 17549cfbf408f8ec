"""prepare with a published model: VAE latents and token states as diffusers makes them, stored or computed while training.

The reference is test/reference/prepared.py's. Then what ranks, shards and interruptions change (nothing), and what is refused. Training
on it is test_published_states.py's.

Usage: test_prepare_published.py APTP
"""
import json
import pathlib
import shutil
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import h5py  # noqa: E402
import numpy  # noqa: E402
from PIL import Image  # noqa: E402
from published import COMPUTED, FIXTURES, PIPELINE, PREPARE, STORED, PreparedTrial, read_safetensors, write_safetensors  # noqa: E402

DECK_FAULT, INPUT_FAULT = 2, 3
VAE = "vae/diffusion_pytorch_model.safetensors"


class Trial(PreparedTrial):
    def near(self, what, found, expected, tolerance):
        """Relative, beside half a unit of the smallest half."""
        excess = numpy.abs(found.astype(float) - expected) - tolerance * numpy.abs(expected) - 2**-25
        self.checks.that(found.shape == expected.shape and excess.max() <= 1e-9, f"{what}: {excess.max()} too far")

    # ---- what is in the file

    def reference(self):
        """Three pictures of the size that is asked for: nothing is resampled, and the VAE sees what diffusers' saw."""
        with h5py.File(FIXTURES / "prepared.h5") as file:
            images, texts = file["inputs/image"][...], [text.decode() for text in file["inputs/text"]]
            expected = {name: values[...] for name, values in file["outputs"].items()}
        folder = self.chain.path("reference")
        folder.mkdir()
        lines = []
        for i, (image, text) in enumerate(zip(images, texts)):
            Image.fromarray(image).save(folder / f"{i}.png")
            lines.append(json.dumps({"file": f"{i}.png", "caption": text}))
        (folder / "index.jsonl").write_text("\n".join(lines) + "\n")
        settings = {**PREPARE, "data.source": "reference", "data.validation_fraction": 0.0, "data.max_tokens": 40, "run.log": "normal"}
        for form in "stored", "computed":
            name = f"reference_{form}.h5"
            result = self.chain.run("prepare", settings={**settings, "files.data": name, "data.text_states": form})
            self.checks.that(f"{(expected['cut'] > 0).sum()} were longer than 12 and cut" in result.stdout, f"{form}: captions cut\n{result.stdout}")
            with h5py.File(self.chain.path(name)) as file:
                self.checks.that(set(file) == {"train", "empty", "latent", "encoder", "skipped"}, f"{form}: groups {set(file)}")
                # halves have 11 bits; fp32 adds little to that
                self.near(f"{form}: means", file["train/latents"][...], expected["mean"], 2**-11 + 1e-5)
                self.near(f"{form}: deviations", file["train/latent_deviation"][...], expected["deviation"], 2**-11 + 1e-4)
                self.checks.that(file["latent/kind"][0] == b"vae" and list(file["latent/scale"]) == 4 * [0.18215], f"{form}: factors")
                self.checks.that((file["train/text_length"][...] == 12).all(), f"{form}: all tokens are seen")
                self.checks.that(("text_ids" in file["train"]) == (form == "computed") == ("text_states" not in file["train"]), f"{form}: texts")
                if form == "stored":  # the last normalisation ends with values around 1
                    for which, states in (("train", "states"), ("empty", "empty_states")):
                        error = numpy.abs(file[f"{which}/text_states"][...].astype(float) - expected[states])
                        self.checks.that((error <= 2**-11 * numpy.abs(expected[states]) + 2e-5).all(), f"{states}: {error.max()}")
                else:
                    for which, ids in (("train", "ids"), ("empty", "empty_ids")):
                        self.checks.that(numpy.array_equal(file[f"{which}/text_ids"][...], expected[ids]), ids)

    def lineage(self):
        """What says that files belong together is import's: its teacher fits."""
        with h5py.File(self.chain.path("stored.h5")) as data, h5py.File(self.chain.path("teacher.h5")) as teacher:
            for name in "latent/kind", "latent/vae", "encoder/text":
                self.checks.that(data[name][0] == teacher[name][0], name)
            self.checks.that(data["encoder/sentence"][0] != data["encoder/text"][0], "z is the sentence encoder's")
            self.checks.that([name.decode() for name in data.attrs["parents"]] == ["source", "sentence encoder", "text encoder", "VAE"],
                             "parents")

    def other_kinds(self):
        """Each part by itself: Haar latents with a published model's states; one view of a VAE's."""
        self.chain.make("prepare", settings={"files.data": "haar.h5", "data.image_size": 64})
        self.chain.make("prepare", settings={**PIPELINE, "files.data": "mixed.h5", "data.image_size": 64})
        self.chain.make("prepare", settings={**PREPARE, "data.flips": "false", "files.data": "plain.h5"})
        with (h5py.File(self.chain.path("haar.h5")) as haar, h5py.File(self.chain.path("mixed.h5")) as mixed,
              h5py.File(self.chain.path("stored.h5")) as stored, h5py.File(self.chain.path("plain.h5")) as plain):
            for name, source in (("latents", haar), ("embedding", haar), ("text_states", stored), ("text_length", stored)):
                self.checks.that(numpy.array_equal(mixed[f"train/{name}"][...], source[f"train/{name}"][...]), f"mixed: {name}")
            self.checks.that("latent_deviation" not in mixed["train"] and "vae" not in mixed["latent"], "Haar latents are no distribution")
            for name in "latents", "latent_deviation":
                self.checks.that(numpy.array_equal(plain[f"train/{name}"][...], stored[f"train/{name}"][:, :1]), f"plain: {name}")

    # ---- ranks, shards, interruptions

    def ranks_and_shards(self):
        for ranks in 1, 2, 4:
            self.chain.make("prepare", ranks=ranks, settings={**STORED, "files.data": "again.h5"})
            self.same(f"{ranks} ranks", "stored.h5", "again.h5")
        self.chain.make("prepare", ranks=2, settings={**COMPUTED, "files.data": "again.h5", "data.shard_size": 7, "data.text_batch": 5})
        self.same("other shards and batches", "computed.h5", "again.h5")

    def shards_go_on(self):
        """Shards of a run that failed at the end are used again, unless something that made them has changed. A limit of 0 broken
        pictures fails that run: shard 1 has one."""
        path = self.chain.path("pictures/30.png")
        good = path.read_bytes()
        check = {"run.log": "normal", "data.bad_picture_limit": 0}

        def left(settings):
            result = self.chain.run("prepare", settings={**settings, **check}, arguments=["--check"])
            return result.stdout.partition(" of them to be made")[0].split()[-1]

        def changed(what, name, edit, expected, settings=STORED):
            before = self.chain.path(name).read_bytes()
            edit(self.chain.path(name))
            self.checks.that(left({**again, **settings}) == expected, f"{what}: {left({**again, **settings})} shards to be made, not {expected}")
            self.chain.path(name).write_bytes(before)

        def weight(path):
            tensors = {name: values.copy() for name, values in read_safetensors(path).items()}
            tensors[next(iter(tensors))].flat[0] += 1
            write_safetensors(path, tensors)

        again = {**STORED, "files.data": "again.h5"}
        self.chain.remove("again.h5")
        path.write_bytes(good[:40])
        self.expect("a broken picture", "prepare", {**again, **check}, INPUT_FAULT, "broken")
        path.write_bytes(good)
        self.checks.that(left(again) == "2", f"{left(again)} shards left, not 2")
        changed("nothing", f"model/{VAE}", lambda path: None, "2", settings=again)
        changed("the VAE", f"model/{VAE}", weight, "3", settings=again)
        changed("the text encoder", "model/text_encoder/model.safetensors", weight, "3", settings=again)
        self.checks.that(left({**again, "data.flips": "false"}) == "3", "other views")
        self.checks.that(left({**again, "data.latent": "haar"}) == "3", "other latents")
        self.checks.that(left({**again, "data.text_states": "computed"}) == "3", "ids")
        shutil.copytree(self.chain.path("model"), self.chain.path("moved"))
        self.checks.that(left({**again, "data.pipeline": "moved"}) == "2", "the same model elsewhere")
        self.chain.make("prepare", settings=again)
        self.same("gone on", "stored.h5", "again.h5")

    def check(self):
        """--check tells the disk space of both forms, and counts VAE and text encoder."""
        items, states, ids = 5000, 12 * 18 * 2, 12 * 4
        self.chain.path("pictures/many.csv").write_text("file,caption\n" + items * "0.png,red\n")  # so many that each figure shows
        result = self.chain.run("prepare", settings={**STORED, "data.source": "pictures/many.csv", "run.log": "normal"}, arguments=["--check"])
        rest = 2 * 2 * (4 * 8 * 8 * 2) + 4 + 32 * 4  # views of means and deviations, halves; length; z
        for text in (f"disk needed, without the texts: {items * (rest + states) / 2**20:.1f} MiB of",
                     f"{items * states / 2**20:.1f} MiB of each for token states if they are stored, {items * ids / 2**20:.1f} MiB for token ids"):
            self.checks.that(text in result.stdout, f"--check does not say \"{text}\":\n{result.stdout}")

        def memory(settings):
            words = self.chain.run("prepare", settings={**settings, "run.log": "normal"}, arguments=["--check"]).stdout.split()
            place = words.index("encoders,")
            return float(words[place - 3]), float(words[place + 1])
        whole, plain = memory(STORED), memory({"files.data": "haar.h5"})
        self.checks.that(whole[0] > plain[0] and whole[1] > plain[1], f"planned memory: {whole} of three networks, {plain} of one")

    # ---- what is refused

    def refusals(self):
        self.expect("vae without a model", "prepare", {**PREPARE, "data.pipeline": '""'}, DECK_FAULT, "data.latent = \"vae\" needs a published model")
        self.expect("computed without a model", "prepare", {"data.text_states": "computed"}, DECK_FAULT,
                    "data.text_states = \"computed\" needs a published model")
        self.expect("size", "prepare", {**PREPARE, "data.image_size": 60}, DECK_FAULT, "data.image_size is 60, must be a multiple of 8 for vae latents")
        self.expect("no model", "prepare", {**PREPARE, "data.pipeline": "pictures"}, INPUT_FAULT, "pictures/model_index.json")


def main():
    with tempfile.TemporaryDirectory(prefix="aptp_published_") as folder:
        trial = Trial(sys.argv[1], folder)
        for part in (trial.reference, trial.lineage, trial.other_kinds, trial.ranks_and_shards, trial.shards_go_on, trial.check,
                     trial.refusals):
            part()
        trial.checks.end()


if __name__ == "__main__":
    main()
