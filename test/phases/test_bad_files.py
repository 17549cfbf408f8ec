"""Files that the phases must refuse, and disks that are full: each a message, its exit code, nothing half-written, no hang.

Cut files, missing files, files that do not belong together, a broken chunk that only one of two ranks meets, RLIMIT_FSIZE in place of
a full disk, and bit flips through the program (test_damaged_files.c has many more of these).

Usage: test_bad_files.py APTP
"""
import pathlib
import random
import shutil
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import h5py  # noqa: E402
from chain import OUTPUT, REPOSITORY, Chain, Checks, differences  # noqa: E402

INPUT_FAULT, OUTPUT_FAULT = 3, 4
READS = {"prepare": ["encoder/model.safetensors", "encoder/config.json", "pictures/index.csv"],
         "pretrain": ["data.h5", "unet.json"], "clip": ["data.h5", "clip_vision.json"], "prune": ["data.h5", "teacher.h5"], "assign": ["data.h5", "router.h5"]}
FLIPS = 4  # of each input file


class Trial:
    def __init__(self, program, folder):
        self.checks, self.chain = Checks(), Chain(program, folder)
        shutil.copytree(REPOSITORY / "test/fixtures/bert_small", self.chain.path("encoder"))
        self.settings = {phase: {} for phase in OUTPUT}
        self.settings["prepare"] = {"data.sentence_encoder": "encoder"}
        self.settings["prune"] = {"prune.steps": 2}
        for phase in OUTPUT:
            self.chain.make(phase, settings=self.settings[phase])
        for name in OUTPUT.values():
            shutil.copy(self.chain.path(name), self.chain.path(f"good_{name}"))

    def restore(self):
        """The chain as it was, without checkpoints and CSVs."""
        for name in OUTPUT.values():
            shutil.copy(self.chain.path(f"good_{name}"), self.chain.path(name))
        for path in [*self.chain.folder.glob("*.checkpoint.h5"), *self.chain.folder.glob("*.csv")]:
            path.unlink()

    def expect(self, phase, what, code, *messages, ranks=0, limit=None, settings=None):
        """The phase must fail with that code and one message, and leave its output as it was."""
        output = self.chain.path(OUTPUT[phase])
        result = self.chain.run(phase, ranks=ranks, file_limit=limit, settings={**self.settings[phase], **(settings or {})})
        name = f"{phase}, {what}, {ranks} ranks"
        said = result.stdout.count("aptp: error:") == 1 and all(message in result.stdout for message in messages)
        self.checks.that(result.returncode == code and said,
                         f"{name}: exit code {result.returncode}, expected {code} and {messages}:\n{result.stdout}")
        good = self.chain.path(f"good_{OUTPUT[phase]}")
        if not self.checks.that(output.read_bytes() == good.read_bytes(), f"{name}: {OUTPUT[phase]} was changed"):
            shutil.copy(good, output)
        partial = list(self.chain.folder.rglob("*.partial"))
        self.checks.that(not partial, f"{name}: left {partial}")

    def broken_inputs(self, generator):
        """Every input missing, cut, and of another kind."""
        for phase, names in READS.items():
            for name in names:
                path = self.chain.path(name)
                content = path.read_bytes()
                path.unlink()
                self.expect(phase, f"{name} missing", INPUT_FAULT, path.name)
                if not name.endswith(".csv"):
                    whole = len(content.rstrip())  # JSON may end in a blank line
                    for length in 0, generator.randrange(1, whole // 2), whole - 1:
                        path.write_bytes(content[:length])
                        self.expect(phase, f"{name} cut to {length}", INPUT_FAULT, path.name)
                if name.endswith(".h5"):
                    self.expect(phase, f"{name} cut", INPUT_FAULT, path.name, ranks=2)
                    other = "teacher" if name != "teacher.h5" else "router"
                    shutil.copy(self.chain.path(f"good_{other}.h5"), path)
                    self.expect(phase, f"{name} of another kind", INPUT_FAULT, f"is a {other} file")
                path.write_bytes(content)

    def broken_chunk(self):
        """A chunk of latents that is met late, by one rank at a time."""
        with h5py.File(self.chain.path("data.h5")) as file:
            latents = file["train/latents"].id
            place = latents.get_chunk_info(latents.get_num_chunks() - 1).byte_offset
        for phase in "pretrain", "prune":
            content = bytearray(self.chain.path("good_data.h5").read_bytes())
            content[place + 5] ^= 16
            self.chain.path("data.h5").write_bytes(content)
            self.expect(phase, "a broken chunk", INPUT_FAULT, "latents", ranks=2)
            self.restore()

    def strangers(self):
        """Files that are whole but do not belong together."""
        chain = self.chain
        chain.make("prepare", settings={**self.settings["prepare"], "files.data": "pixels.h5", "data.latent": "pixel"})
        together = "do not belong together"
        self.expect("prune", "other latents", INPUT_FAULT, together, settings={"files.data": "pixels.h5"})
        self.expect("assign", "other latents", INPUT_FAULT, together, settings={"files.data": "pixels.h5"})
        self.expect("pretrain", "other latents", 2, "channels", settings={"files.data": "pixels.h5"})
        weights = bytearray(chain.path("encoder/model.safetensors").read_bytes())
        weights[-3] ^= 1  # another encoder
        chain.path("encoder/model.safetensors").write_bytes(weights)
        chain.make("prepare", settings={**self.settings["prepare"], "files.data": "other.h5"})
        encoders = "different text encoders"
        self.expect("prune", "another encoder", INPUT_FAULT, encoders, settings={"files.data": "other.h5"})
        self.expect("assign", "another encoder", INPUT_FAULT, encoders, settings={"files.data": "other.h5"}, ranks=2)
        shutil.copytree(REPOSITORY / "test/fixtures/bert_small", chain.path("encoder"), dirs_exist_ok=True)

    def broken_checkpoints(self, generator):
        for phase in "pretrain", "prune":
            self.chain.path("stop").touch()
            self.chain.run(phase, settings=self.settings[phase])
            path = self.chain.path(f"{phase}.checkpoint.h5")
            content = path.read_bytes()
            for length in generator.randrange(len(content)), len(content) - 1:
                path.write_bytes(content[:length])
                self.expect(phase, f"checkpoint cut to {length}", INPUT_FAULT, path.name)
            path.unlink()
            self.restore()

    def full_disk(self):
        """Writing fails at once, within the first file, and in the last byte of the phase's file."""
        for phase, name in OUTPUT.items():
            size = self.chain.path(f"good_{name}").stat().st_size
            for limit, ranks in (500, 0), (size // 2, 0), (size - 1, 0), (size // 2, 2):
                self.restore()
                self.expect(phase, f"a full disk at {limit}", OUTPUT_FAULT, ranks=ranks, limit=limit)
            shutil.rmtree(self.chain.path("data.shards"), ignore_errors=True)
        self.restore()

    def flips(self, generator):
        """One bit of an input flipped: an error, or the same output."""
        for phase, name in ("pretrain", "data.h5"), ("prune", "teacher.h5"), ("assign", "router.h5"), ("assign", "data.h5"):
            for _ in range(FLIPS):
                content = bytearray(self.chain.path(f"good_{name}").read_bytes())
                place = generator.randrange(len(content))
                content[place] ^= 1 << generator.randrange(8)
                self.chain.path(name).write_bytes(content)
                result = self.chain.run(phase, settings=self.settings[phase])
                same = result.returncode == 0 and not differences(self.chain.path(OUTPUT[phase]),
                                                                  self.chain.path(f"good_{OUTPUT[phase]}"))
                self.checks.that(same or (result.returncode == INPUT_FAULT and name in result.stdout),
                                 f"{phase}: {name} with a bit of byte {place} flipped: {result.returncode}\n{result.stdout}")
                self.restore()


def main():
    generator = random.Random(23)
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(sys.argv[1], folder)
        trial.restore()
        trial.broken_inputs(generator)
        trial.broken_chunk()
        trial.strangers()
        trial.broken_checkpoints(generator)
        trial.full_disk()
        trial.flips(generator)
    trial.checks.end()


if __name__ == "__main__":
    main()
