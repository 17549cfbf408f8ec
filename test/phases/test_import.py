"""import: a published model in small becomes teacher.h5, or is refused by name; and the chain runs on it.

The values and ids in the file against those that numpy and hashlib find in the folder; one file, parts, and 16-bit types; what is
missing, too much, of another shape, not finite or not supported; indexes that point elsewhere; noise schedules that later phases
follow; prepare, prune, assign and finetune with the model's own VAE and text encoder.

Usage: test_import.py APTP
"""
import json
import pathlib
import shutil
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import h5py  # noqa: E402
import numpy  # noqa: E402
from chain import Chain, Checks, differences  # noqa: E402
from published import bfloat16, read_safetensors, text_of, write_pipeline, write_safetensors, write_sharded  # noqa: E402

DECK_FAULT, INPUT_FAULT, OUTPUT_FAULT = 2, 3, 4
STEM = "diffusion_pytorch_model"
FILE, INDEX = f"unet/{STEM}.safetensors", f"unet/{STEM}.safetensors.index.json"


class Trial:
    def __init__(self, program, folder):
        self.checks, self.chain = Checks(), Chain(program, folder)
        self.good = self.chain.path("good")
        write_pipeline(self.good)
        self.weights = read_safetensors(self.good / FILE)
        self.copy()

    def copy(self):
        """The model as it is, in the folder that the deck names."""
        shutil.rmtree(self.chain.path("model"), ignore_errors=True)
        shutil.copytree(self.good, self.chain.path("model"))
        return self.chain.path("model")

    def set_json(self, name, **values):
        path = self.chain.path("model") / name
        content = json.loads(path.read_text())
        content.update(values)
        path.write_text(json.dumps({key: value for key, value in content.items() if value != "absent"}))

    def make(self, name, settings=None, **options):
        self.chain.make("import", settings={"files.teacher": name, **(settings or {})}, **options)
        return h5py.File(self.chain.path(name))

    # ---- what is written

    def contents(self):
        with self.make("teacher.h5") as file:
            self.checks.that(set(file["weights"]) == set(self.weights), "names of the weights")
            for name, values in self.weights.items():
                stored = file["weights"][name]
                self.checks.that(stored.dtype == "<f4" and numpy.array_equal(stored[...], values), f"{name} differs")
            self.checks.that(text_of(file, "config") == (self.good / "unet/config.json").read_text(), "config differs")
            self.checks.that(text_of(file, "prediction") == "epsilon", "prediction_type absent means epsilon")
            self.checks.that(list(file["schedule/betas"]) == [0.00085, 0.012], "betas")
            self.checks.that(text_of(file, "latent/kind") == "vae", "kind of latents")
            self.checks.that(list(file["latent/scale"]) == 4 * [0.18215], "factors of the latents")
            self.checks.that("sentence" not in file["encoder"], "a teacher has no sentence encoder")
            said = " ".join(str(value) for value in file.attrs.values())
            self.checks.that(all(text_of(file, name) in said for name in ("latent/vae", "encoder/text")), "provenance names the folders' ids")

    def ids(self):
        """Of VAE and text encoder: the same for other forms of the same files, another for anything that results depend on."""
        def ids_of(name, settings=None):
            with self.make(name, settings) as file:
                return text_of(file, "latent/vae"), text_of(file, "encoder/text")

        vae, text = ids_of("teacher.h5")
        weights = {"vae": f"vae/{STEM}.safetensors", "text_encoder": "text_encoder/model.safetensors"}
        folder = self.copy()
        for place in weights.values():
            tensors = read_safetensors(folder / place)
            (folder / place).unlink()
            write_sharded((folder / place).parent, pathlib.Path(place).stem, tensors, 2)
        (folder / "tokenizer/tokenizer.json").unlink()
        self.checks.that(ids_of("parts.h5") == (vae, text), "weights in parts, the tokenizer in its older files")

        def changed(what, place, edit, same):
            path = self.copy() / place
            edit(path)
            found = ids_of("changed.h5")
            self.checks.that([a == b for a, b in zip(found, (vae, text))] == same, f"{what}: ids that stay")

        def weight(path):
            tensors = {name: values.copy() for name, values in read_safetensors(path).items()}
            tensors[next(iter(tensors))].flat[0] += 1
            write_safetensors(path, tensors)

        def merges(path):
            content = json.loads(path.read_text())
            listed = content["model"]["merges"]
            listed[-1], listed[-2] = listed[-2], listed[-1]
            path.write_text(json.dumps(content))

        changed("a weight of the VAE", weights["vae"], weight, [False, True])
        changed("its groups", "vae/config.json", lambda path: path.write_text(path.read_text().replace('"norm_num_groups": 4', '"norm_num_groups": 2')),
                [False, True])
        changed("a weight of the text encoder", weights["text_encoder"], weight, [True, False])
        changed("its activation", "text_encoder/config.json", lambda path: path.write_text(path.read_text().replace('"gelu"', '"quick_gelu"')),
                [True, False])
        changed("the order of merges", "tokenizer/tokenizer.json", merges, [True, False])
        self.copy()

    def forms(self):
        """Parts, 16-bit types, keys for each part, ranks: the same file."""
        def same(name, settings=None, **options):
            self.make(name, settings, **options).close()
            found = differences(self.chain.path("teacher.h5"), self.chain.path(name))
            self.checks.that(not found, f"{name}: {found}")

        folder = self.copy()
        (folder / FILE).unlink()
        write_sharded(folder / "unet", STEM, self.weights, 3)
        same("sharded.h5")
        same("ranks.h5", ranks=2)
        parts = ("unet", "scheduler", "vae", "text_encoder", "tokenizer")
        same("parts.h5", {"import.folder": '""', **{f"import.{part}": f"good/{part}" for part in parts}})

        half = {name: values.astype("<f2") for name, values in self.weights.items()}
        whole = {name: bfloat16(values) for name, values in self.weights.items()}
        for dtype, tensors, stored, settings in [("F16", half, "<f2", {}), ("F16", half, "<f4", {"import.weights": "fp32"}),
                                                 ("BF16", whole, "<f4", {}), ("F32", half, "<f2", {"import.weights": "half"})]:
            folder = self.copy()
            source = folder / FILE.replace(".safe", ".fp16.safe") if dtype == "F16" else folder / FILE
            (folder / FILE).unlink()
            write_safetensors(source, self.weights if dtype == "F32" else tensors, dtype)
            with self.make("form.h5", settings) as file:
                good = all(file["weights"][name].dtype == stored and numpy.array_equal(file["weights"][name][...], values)
                           for name, values in tensors.items())
                self.checks.that(good, f"{dtype} as {stored}: values differ")
        self.copy()

    def report(self):
        """--check reads no values of the UNet, says what is there and what is needed, and writes nothing."""
        result = self.chain.run("import", settings={"files.teacher": "none.h5", "run.log": "normal"}, arguments=["--check"])
        count = sum(values.size for values in self.weights.values())
        for text in (f"{count / 1e6:.2f} M parameters in {len(self.weights)} tensors of F32, 1 file;", "predicts epsilon",
                     "0.00085 to 0.012", f"disk needed: about {4 * count / 2**20:.1f} MiB", "planned memory", "GMACs", "12 token states of 18", "vae: 0.02 M parameters, id "):
            self.checks.that(text in result.stdout, f"--check does not say \"{text}\":\n{result.stdout}")
        self.checks.that(result.returncode == 0 and not self.chain.path("none.h5").exists(), "--check")

    # ---- what is refused

    def expect(self, what, code, *messages, settings=None, phase="import"):
        result = self.chain.run(phase, settings={"files.teacher": "bad.h5", **(settings or {})} if phase == "import" else settings)
        said = result.stdout.count("aptp: error:") == 1 and all(message in result.stdout for message in messages)
        self.checks.that(result.returncode == code and said,
                         f"{what}: exit code {result.returncode}, expected {code} and {messages}:\n{result.stdout}")
        left = [*self.chain.folder.glob("bad.h5*"), *self.chain.folder.rglob("*.partial")]
        self.checks.that(not left, f"{what}: left {left}")
        for path in left:
            path.unlink()

    def configurations(self):
        scheduler, unet = "scheduler/scheduler_config.json", "unet/config.json"
        cases = [
            (scheduler, {"prediction_type": "sample"}, "prediction_type: found \"sample\", allowed are \"epsilon\" and"),
            (scheduler, {"sigma_data": 0.5}, "sigma_data: unknown key"),
            (unet, {"in_channels": 9}, "in_channels is 9 and out_channels 4, the VAE's latents have 4"),
            (unet, {"cross_attention_dim": 32}, "cross_attention_dim is 32, hidden_size in model/text_encoder/config.json is 18"),
            (unet, {"new_key": 1}, "new_key: unknown key"),
            ("vae/config.json", {"shift_factor": 0.1}, "shift_factor: "),
            ("text_encoder/config.json", {"model_type": "t5"}, "model_type: "),
            ("model_index.json", {"_class_name": "StableDiffusionXLPipeline"}, "allowed is \"StableDiffusionPipeline\""),
        ]
        for name, values, message in cases:
            self.copy()
            self.set_json(name, **values)
            self.expect(f"{name} {values}", INPUT_FAULT, f"model/{name}: ", message)
        for names, message in [(["model_index.json"], "model_index.json"), (["tokenizer/merges.txt", "tokenizer/tokenizer.json"], "merges.txt"),
                               ([FILE], "model/unet: no weights"), (["vae/config.json"], "model/vae/config.json"),
                               (["text_encoder/model.safetensors"], "model/text_encoder: no weights")]:
            folder = self.copy()
            for name in names:
                (folder / name).unlink()
            self.expect(f"{names} missing", INPUT_FAULT, message)
        self.copy()
        self.expect("no folder", DECK_FAULT, "import.folder and import.unet are empty: one must be set", settings={"import.folder": '""'})
        self.set_json(scheduler, solver_order=2, timestep_spacing="leading", use_karras_sigmas=True, steps_offset=0)
        self.make("samplers.h5").close()  # keys that say how to sample do not matter
        self.checks.that(not differences(self.chain.path("teacher.h5"), self.chain.path("samplers.h5")), "sampler's keys")

    def bad_weights(self):
        name = "mid_block.attentions.0.proj_in.weight"
        values = self.weights[name]
        rest = {other: tensor for other, tensor in self.weights.items() if other != name}
        bad, large = values.copy(), values.copy()
        bad.flat[-1], large.flat[0] = numpy.nan, 1e6
        for what, tensors, message in [("missing", rest, f"1 missing ({name})"),
                                       ("extra", {**self.weights, "extra.bias": values}, "does not have (extra.bias)"),
                                       ("shape", {**rest, name: values[:-1]}, f"{name} is [15, "),
                                       ("type", {**rest, name: numpy.zeros(values.shape, "<i8")}, f"{name}: type is I64"),
                                       ("not finite", {**rest, name: bad}, f"{name}: element {values.size - 1} is not finite")]:
            folder = self.copy()
            write_safetensors(folder / FILE, tensors)
            self.expect(what, INPUT_FAULT, message)
        folder = self.copy()
        tensors = read_safetensors(folder / f"vae/{STEM}.safetensors")
        write_safetensors(folder / f"vae/{STEM}.safetensors", {**tensors, "quant_conv.bias": numpy.full(8, numpy.nan, "<f4")})
        self.expect("VAE not finite", INPUT_FAULT, "quant_conv.bias: element 0 is not finite")
        write_safetensors(folder / f"vae/{STEM}.safetensors", {**tensors, "quant_conv.bias": numpy.zeros(7, "<f4")})
        self.expect("VAE of another shape", INPUT_FAULT, "model/vae", "quant_conv.bias is [7]")
        folder = self.copy()
        write_safetensors(folder / FILE, {**rest, name: large})
        self.expect("half", OUTPUT_FAULT, name, settings={"import.weights": "half"})
        content = (self.copy() / FILE).read_bytes()
        (self.chain.path("model") / FILE).write_bytes(content[:-3])
        self.expect("cut", INPUT_FAULT, FILE)

    def indexes(self):
        """Indexes that lie, and parts that are not there."""
        part = f"{STEM}-00002-of-00003.safetensors"

        def change(edit):
            folder = self.copy() / "unet"
            (folder / f"{STEM}.safetensors").unlink()
            write_sharded(folder, STEM, self.weights, 3)
            path = self.chain.path("model") / INDEX
            index = json.loads(path.read_text())
            edit(folder, index["weight_map"])
            path.write_text(json.dumps(index))

        def moved(target):
            def edit(folder, places):
                for name in places:
                    places[name] = places[name].replace(part, target)
            return edit

        def cyclic(folder, places):
            (folder / part).unlink()
            (folder / part).symlink_to("loop")
            (folder / "loop").symlink_to(part)

        first = next(iter(self.weights))
        cases = [("absolute path", moved(str(self.good / FILE)), "allowed is the name of a file in the folder"),
                 ("above", moved(f"../unet/{part}"), "allowed is the name of a file in the folder"),
                 ("missing", lambda folder, places: (folder / part).unlink(), part),
                 ("wrong part", lambda folder, places: places.update({first: part}), first),
                 ("cyclic", cyclic, part)]
        for what, edit, message in cases:
            change(edit)
            self.expect(what, INPUT_FAULT, message)
        self.copy()

    # ---- the chain

    def chain_on_it(self):
        self.chain.make("prepare")
        self.expect("other latents", INPUT_FAULT, "has vae latents", "has haar latents", phase="prune", settings={})
        self.chain.make("prepare", settings={"data.pipeline": "good", "data.latent": "vae", "data.image_size": 64})
        settings = {"prune": {"prune.steps": 2, "router.ff_entries": 4}, "assign": {}, "finetune": {"finetune.steps": 2}}
        losses = {}
        for name, change in (("plain", {}), ("v", {"prediction_type": "v_prediction"}),
                             ("betas", {"beta_start": 0.002, "beta_end": 0.03})):
            self.copy()
            self.set_json("scheduler/scheduler_config.json", **change)
            self.make("teacher.h5").close()
            self.chain.remove("router.h5", "prune.checkpoint.h5", "prune.csv")
            self.chain.make("prune", settings=settings["prune"])
            with h5py.File(self.chain.path("router.h5")) as file:
                losses[name] = float(file["history/ddpm"][0]) if "ddpm" in file["history"] else list(file["history"])
        self.checks.that(len(set(losses.values())) == 3, f"the diffusion loss follows the file: {losses}")
        self.chain.make("assign")
        self.chain.make("finetune", settings=settings["finetune"])
        with h5py.File(self.chain.path("expert_00.h5")) as file:
            self.checks.that(list(file["schedule/betas"]) == [0.002, 0.03], "an expert keeps the betas")
            self.checks.that(text_of(file, "prediction") == "epsilon", "an expert keeps the prediction")
        self.chain.make("evaluate", settings={"evaluate.pictures": "false", "evaluate.experts": "finetuned"})
        for name in ("samples.h5", "clip.h5", "teacher_samples.h5"):
            self.chain.path(name).touch()
        self.expect("pictures", INPUT_FAULT, "latents of a VAE", "set evaluate.pictures = false", phase="evaluate", settings={})
        self.expect("sample", INPUT_FAULT, "latents of a VAE", "in data.pipeline", phase="sample", settings={"sample.split": "train"})

    def pretrain_on_it(self):
        """The training goes on from an imported network; a deck that says another prediction is refused."""
        shutil.copy(self.chain.path("teacher.h5"), self.chain.path("before.h5"))
        settings = {"pretrain.initial": "before.h5", "pretrain.unet": "good/unet/config.json", "pretrain.steps": 1}
        self.expect("prediction", INPUT_FAULT, "before.h5 predicts epsilon, pretrain.prediction is v", phase="pretrain",
                    settings=settings)
        settings["pretrain.prediction"] = "epsilon"
        self.expect("grids", INPUT_FAULT, "latents of a VAE", "set pretrain.sample_every = 0", phase="pretrain",
                    settings={**settings, "pretrain.sample_every": 1, "pretrain.sample_prompts": '["a"]'})
        self.chain.make("pretrain", settings=settings)
        with h5py.File(self.chain.path("teacher.h5")) as file:
            self.checks.that(list(file["schedule/betas"]) == [0.002, 0.03], "pretrain keeps the betas")
            self.checks.that(text_of(file, "latent/vae") == text_of(h5py.File(self.chain.path("data.h5")), "latent/vae"), "VAE")


def main():
    with tempfile.TemporaryDirectory(prefix="aptp_import_") as folder:
        trial = Trial(sys.argv[1], folder)
        for part in (trial.contents, trial.ids, trial.forms, trial.report, trial.configurations, trial.bad_weights, trial.indexes,
                     trial.chain_on_it, trial.pretrain_on_it):
            part()
        trial.checks.end()


if __name__ == "__main__":
    main()
