"""The phase sample with a published model: import of a small pipeline, then its pictures.

They are those that verify finds from the same noise, which numpy's Philox draws here; the same bit for bit whatever the batch and the
number of ranks; routed to experts; and a pipeline whose VAE, text encoder or sentence encoder is another is refused by name.

Usage: test_sample_pipeline.py APTP
"""
import hashlib
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import h5py  # noqa: E402
import numpy  # noqa: E402
from PIL import Image  # noqa: E402
from chain import REPOSITORY, TIMEOUT, Chain, Checks, differences, environment  # noqa: E402
from published import FIXTURES, read_safetensors, text_of, write_pipeline, write_safetensors  # noqa: E402

DECK_FAULT, INPUT_FAULT = 2, 3
NO_TEXT = '""'  # as a --set value
SEED, SAMPLING = 7, 10  # of the decks, and the stream of this noise (base/random.h)
STEPS = 3
PATCH = 8  # pixels a latent
with h5py.File(FIXTURES / "text_to_image.h5") as reference:
    PROMPTS = [prompt.decode() for prompt in reference["inputs/prompt"] if prompt]  # an empty one cannot be asked for
TEACHER = {"sample.model": "teacher", "sample.split": NO_TEXT, "data.pipeline": "model", "data.sentence_encoder": NO_TEXT,
           "sample.prompt_list": json.dumps(PROMPTS), "sample.images": 1, "sample.steps": STEPS}


def noise_of(prompt, index, count):
    """count numbers of the key (seed, stream, step = index, sample = hash of the text), as base/random.h says."""
    sample = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8], "big")
    before = ((index << 128) + (sample << 64) - 1) % (1 << 256)  # numpy's counter goes on before it draws
    counter = numpy.array([before >> 64 * i & (2**64 - 1) for i in range(4)], numpy.uint64)
    words = numpy.random.Philox(key=numpy.array([SEED, SAMPLING], numpy.uint64), counter=counter).random_raw(count)
    unit = ((words >> numpy.uint64(11)).astype(float) + 0.5) * 2.0**-53
    radius, angle = numpy.sqrt(-2 * numpy.log(unit[0::2])), 2 * numpy.pi * unit[1::2]
    return numpy.stack([radius * numpy.cos(angle), radius * numpy.sin(angle)], 1).reshape(-1)


class Trial:
    def __init__(self, program, folder):
        self.checks, self.chain = Checks(), Chain(program, folder)
        write_pipeline(self.chain.path("model"))
        self.chain.make("import")

    def clear(self):
        shutil.rmtree(self.chain.path("samples"), ignore_errors=True)
        self.chain.remove("samples.h5", "samples.png")

    def make(self, settings, ranks=0):
        """Pixels and experts of a run from nothing."""
        self.clear()
        self.chain.make("sample", settings=settings, ranks=ranks)
        with h5py.File(self.chain.path("samples.h5")) as file:
            return file["pixels"][()], list(file["expert"][()])

    def expect(self, what, code, message, settings):
        self.clear()
        result = self.chain.run("sample", settings=settings)
        self.checks.that(result.returncode == code and message in result.stdout and result.stdout.count("aptp: error:") == 1,
                         f"{what}: exit code {result.returncode}, expected {code} and '{message}':\n{result.stdout}")
        self.checks.that(not self.chain.path("samples.h5").exists(), f"{what}: samples.h5 was written")

    # ---- the teacher

    def verify(self, pixels, height, width, guidance, negative, index):
        """What verify says of the pictures as a reference."""
        noise = [noise_of(prompt, index, height * width * 4).reshape(height, width, 4).transpose(2, 0, 1) for prompt in PROMPTS]
        with h5py.File(self.chain.path("painted.h5"), "w") as file:
            file.attrs.update(model="text_to_image", folder="model", steps=STEPS, guidance=guidance)
            file["inputs/latents"] = numpy.float32(noise)
            file["inputs/prompt"] = PROMPTS
            file["inputs/negative_prompt"] = [negative] * len(PROMPTS)
            file["outputs/image"] = numpy.float32(pixels / 255)
        # A level of 255: half of it is the rounding to 8 bits, 0.2 comes of token states rounded to IEEE half, as in data.h5.
        command = [self.chain.program, REPOSITORY / "input/verify.cfg", "--set", f"run.folder={self.chain.folder}", "--set",
                   f"verify.reference={self.chain.path('painted.h5')}", "--set", f"verify.tolerance={1 / 255}"]
        result = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=TIMEOUT)
        return result.returncode, result.stdout + result.stderr

    def pictures(self):
        """Those of verify, whatever the size, the guidance and the negative prompt."""
        cases = [(8, 8, 7.5, ""), (6, 10, 7.5, "blurry, two dogs"), (8, 8, 1.0, "")]
        found = []
        for height, width, guidance, negative in cases:
            pixels, experts = self.make({**TEACHER, "sample.height": height, "sample.width": width, "sample.guidance": guidance,
                                         "sample.negative_prompt": negative or NO_TEXT})
            self.checks.that(pixels.shape == (len(PROMPTS), PATCH * height, PATCH * width, 3) and set(experts) == {-1}, f"{pixels.shape}")
            code, text = self.verify(pixels, height, width, guidance, negative, 0)
            self.checks.that(code == 0, f"{height} x {width}, guidance {guidance}, '{negative}': verify finds others\n{text}")
            found.append(pixels)
        code, text = self.verify(found[0], 8, 8, 7.5, "", 1)
        self.checks.that(code == 1, f"the noise of another picture gives the same:\n{text}")
        code, text = self.verify(found[0], 8, 8, 7.5, "cat", 0)
        self.checks.that(code == 1, f"another negative prompt gives the same:\n{text}")
        self.checks.that((found[0] != found[2]).any(), "guidance does nothing")

    def nothing_changes_a_picture(self):
        settings = {**TEACHER, "sample.images": 2}
        self.make(settings)
        shutil.copy(self.chain.path("samples.h5"), self.chain.path("whole.h5"))
        for ranks, batch in (0, 1), (0, 4), (2, 2):
            self.make({**settings, "sample.batch": batch}, ranks)
            found = differences(self.chain.path("whole.h5"), self.chain.path("samples.h5"))
            self.checks.that(not found, f"{ranks} ranks, batches of {batch}: {found}")

    def provenance(self):
        """The files say which VAE and text encoder painted, and a picture by others is not taken for ours."""
        small = {**TEACHER, "sample.height": 8, "sample.width": 12}  # 96 pixels, a tile has 64
        whole, _ = self.make(small)
        with h5py.File(self.chain.path("teacher.h5")) as file:
            vae, text = text_of(file, "latent/vae"), text_of(file, "encoder/text")
        with h5py.File(self.chain.path("samples.h5")) as file:
            parents = [name.decode() for name in file.attrs["parents"]]
        self.checks.that(parents == ["teacher.h5", "vae", "text_encoder"], f"parents {parents}")
        path = self.chain.path("samples/00000_0_teacher.png")
        with Image.open(path) as picture:
            picture.load()
            self.checks.that(f"VAE {vae}, text encoder {text}" in picture.text["settings"], f"the PNG says {picture.text}")
        when = path.stat().st_mtime_ns
        self.chain.make("sample", settings=small)
        self.checks.that(path.stat().st_mtime_ns == when, "the same picture is made again")
        self.chain.make("sample", settings={**small, "sample.vae_tiles": "true"})
        with h5py.File(self.chain.path("samples.h5")) as file:
            tiles = file["pixels"][()]
        difference = numpy.abs(tiles.astype(int) - whole)
        self.checks.that((difference > 0).any(axis=(1, 2, 3)).all() and difference[:, :, :48].mean() < 64, "pictures in tiles")
        for change in self.other_vae, self.other_text:
            change()
            self.chain.make("import", settings={"import.folder": "other"})
            self.chain.make("sample", settings={**small, "data.pipeline": "other"})
            with h5py.File(self.chain.path("samples.h5")) as file:
                self.checks.that((file["pixels"][()] != whole).any(axis=(1, 2, 3)).all(), f"{change.__name__}: old pictures are kept")
        self.chain.make("import")

    def check(self):
        """--check reads the ids, writes nothing, and plans the memory of all networks."""
        def planned(settings):
            self.clear()
            result = self.chain.run("sample", settings={**TEACHER, "run.log": "normal", **settings}, arguments=["--check"])
            found = re.search(r"planned memory a rank: ([\d.]+) MiB of weights and scratch, ([\d.]+) MiB of activations", result.stdout)
            self.checks.that(result.returncode == 0 and found and not self.chain.path("samples").exists(), f"--check: {result.stdout}")
            return [float(number) for number in found.groups()] if found else [0, 0]

        parts = ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model")
        bytes_of = sum(values.size * 4 for part in parts for values in read_safetensors(self.chain.path(f"model/{part}.safetensors")).values())
        large = {"sample.height": 24, "sample.width": 24}
        whole, tiles = planned(large), planned({**large, "sample.vae_tiles": "true"})
        self.checks.that(whole[0] >= bytes_of / 2**20 - 0.05, f"{whole[0]} MiB of weights, there are {bytes_of / 2**20}")
        self.checks.that(tiles[1] < whole[1], f"activations of {tiles[1]} MiB in tiles, {whole[1]} otherwise")

    # ---- refusals

    def other(self):
        shutil.rmtree(self.chain.path("other"), ignore_errors=True)
        shutil.copytree(self.chain.path("model"), self.chain.path("other"))
        return self.chain.path("other")

    def change_weight(self, name, key):
        path = self.other() / name
        tensors = {other: values.copy() for other, values in read_safetensors(path).items()}
        tensors[key] += 0.1
        write_safetensors(path, tensors)

    def other_vae(self):
        self.change_weight("vae/diffusion_pytorch_model.safetensors", "decoder.conv_out.bias")

    def other_text(self):
        path = self.other() / "text_encoder/model.safetensors"
        self.change_weight("text_encoder/model.safetensors", next(key for key in read_safetensors(path) if "final_layer_norm.bias" in key))

    def refusals(self):
        other = {**TEACHER, "data.pipeline": "other"}
        self.other_vae()
        self.expect("another VAE", INPUT_FAULT, "other and ./teacher.h5 belong to different VAEs", other)
        result = self.chain.run("sample", settings=other, arguments=["--check"])
        self.checks.that(result.returncode == INPUT_FAULT and "different VAEs" in result.stdout, f"--check: {result.stdout}")
        self.other_text()
        self.expect("another text encoder", INPUT_FAULT, "other and ./teacher.h5 belong to different text encoders", other)
        (self.other() / "model_index.json").unlink()
        self.expect("no index", INPUT_FAULT, "other/model_index.json", other)
        self.expect("no folder", INPUT_FAULT, "nowhere/", {**TEACHER, "data.pipeline": "nowhere"})
        self.expect("no encoder", DECK_FAULT, "which data.sentence_encoder must encode", {**TEACHER, "data.pipeline": NO_TEXT})
        self.expect("no sentence encoder", DECK_FAULT, "which is routed by what data.sentence_encoder makes of it",
                    {**TEACHER, "sample.model": "routed"})
        self.expect("too large", INPUT_FAULT, "multiples of 8 up to 16384", {**TEACHER, "sample.height": 2049})

    # ---- experts

    def routed(self):
        chain = self.chain
        chain.make("prepare")
        self.expect("Haar latents", INPUT_FAULT, "belong to different text encoders",
                    {"sample.model": "teacher", "data.pipeline": "model", "sample.negative_prompt": "a"})
        chain.make("pretrain", settings={"files.teacher": "haar.h5", "pretrain.steps": 1})
        self.expect("a teacher of Haar latents", INPUT_FAULT, "model has vae latents, ./haar.h5 has haar latents",
                    {"sample.model": "teacher", "files.teacher": "haar.h5", "data.pipeline": "model"})
        with h5py.File(chain.path("haar.h5"), "r+") as file:
            for name, values in (("latent/kind", numpy.array([b"pixel"])), ("latent/scale", numpy.ones(3))):
                del file[name]
                file.create_dataset(name, data=values, chunks=values.shape, fletcher32=True)
        self.expect("latents of other channels", INPUT_FAULT, "./haar.h5: the UNet has 12 in and 12 out channels, its pixel latents have 3",
                    {"sample.model": "teacher", "files.teacher": "haar.h5", "sample.split": NO_TEXT, "sample.prompt_list": '["a"]'})
        chain.make("prepare", settings={"data.pipeline": "model", "data.latent": "vae", "data.image_size": 64})
        chain.make("prune", settings={"prune.steps": 2})
        chain.make("assign")
        split = {"data.pipeline": "model", "sample.images": 1}
        self.expect("no VAE", INPUT_FAULT, "latents of a VAE, which this phase does not turn into pictures: name the published model",
                    {**split, "data.pipeline": NO_TEXT})
        self.other_vae()
        self.expect("another VAE than the router's", INPUT_FAULT, "other and ./router.h5 belong to different VAEs",
                    {**split, "data.pipeline": "other"})
        with h5py.File(chain.path("data.h5")) as data, h5py.File(chain.path("assignment.h5")) as assignment:
            captions = [caption.decode() for caption in data["validation/caption"]]
            assigned = list(assignment["validation/expert"])
        pixels, experts = self.make({**split, "data.sentence_encoder": NO_TEXT})  # the embeddings are stored
        self.checks.that(pixels.shape == (len(captions), 64, 64, 3) and experts == assigned, f"a split: {pixels.shape}, {experts}")
        with h5py.File(chain.path("samples.h5")) as file:
            parents = [name.decode() for name in file.attrs["parents"]]
        self.checks.that(parents == ["data.h5", "router.h5", "teacher.h5", "vae", "text_encoder"], f"parents {parents}")
        text = {**split, "sample.split": NO_TEXT, "sample.prompt_list": json.dumps(captions)}
        sliced, experts = self.make(text)
        self.checks.that(experts == assigned, f"text is routed to {experts}, the split to {assigned}")
        self.checks.that((sliced == pixels).all(), "a split and the same text give the same pictures")
        shutil.copy(chain.path("samples.h5"), chain.path("whole.h5"))
        self.make({**text, "sample.batch": 1}, ranks=2)
        self.checks.that(not differences(chain.path("whole.h5"), chain.path("samples.h5")), "routed text on two ranks")
        chain.make("finetune", settings={"finetune.learning_rate": 1e-15, "finetune.steps": 1, "finetune.ema_decay": 0})
        finetuned, _ = self.make({**text, "sample.experts": "finetuned"})
        self.checks.that((finetuned == sliced).all(), "finetuned experts that did not move")
        self.other_sentence_encoder(text)

    def other_sentence_encoder(self, text):
        folder = self.chain.path("bert")
        shutil.copytree(FIXTURES / "bert_small", folder)
        (folder / "tokenizer.json").unlink()  # or the vocabulary would be its
        words = (folder / "vocab.txt").read_text().split("\n")
        (folder / "vocab.txt").write_text("\n".join([*words[:-3], words[-2], words[-3], words[-1]]))
        self.expect("another sentence encoder", INPUT_FAULT, "bert and ./router.h5 belong to different sentence encoders",
                    {**text, "data.sentence_encoder": "bert"})


def main():
    with tempfile.TemporaryDirectory(prefix="aptp_sample_pipeline_") as folder:
        trial = Trial(sys.argv[1], folder)
        for part in (trial.pictures, trial.nothing_changes_a_picture, trial.provenance, trial.check, trial.refusals, trial.routed):
            part()
        trial.checks.end()


if __name__ == "__main__":
    main()
