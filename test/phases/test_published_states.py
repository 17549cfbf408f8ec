"""Training on latents of a VAE and token states of a published text encoder, stored or computed from ids.

Both forms give the same bits in prune, finetune, pretrain and evaluate; which ids are refused.

Usage: test_published_states.py APTP
"""
import pathlib
import shutil
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import h5py  # noqa: E402
import numpy  # noqa: E402
from published import PIPELINE, PreparedTrial  # noqa: E402

INPUT_FAULT = 3
STEPS = {"prune": {"prune.steps": 2, "prune.warmup_steps": 1, "router.ff_entries": 4}, "finetune": {"finetune.steps": 2}}
DATA = {"stored": {"files.data": "stored.h5"}, "computed": {"files.data": "computed.h5", **PIPELINE}}


class Trial(PreparedTrial):
    # ---- both forms

    def prune(self):
        """On any number of ranks, too: the latents that are drawn are those of the global batch."""
        for name, ranks in (("stored", 0), ("computed", 0), ("computed", 2)):
            self.chain.remove("prune.checkpoint.h5", "prune.csv")
            self.chain.make("prune", ranks=ranks, settings={**STEPS["prune"], **DATA[name], "files.router": f"router_{name}_{ranks}.h5"})
        self.same("router of states computed", "router_stored_0.h5", "router_computed_0.h5")
        with h5py.File(self.chain.path("router_stored_0.h5")) as one, h5py.File(self.chain.path("router_computed_2.h5")) as two:
            for name in "ddpm", "total":  # sums in another order
                self.checks.that(numpy.allclose(one[f"history/{name}"], two[f"history/{name}"], rtol=1e-6), f"2 ranks: {name}")
        self.chain.path("router_stored_0.h5").rename(self.chain.path("router.h5"))

    def later_phases(self):
        for name, data in DATA.items():
            self.chain.remove(*[path.name for path in self.chain.folder.glob("finetune_*")])
            files = {"files.data": data["files.data"], "files.assignment": f"assignment_{name}.h5"}
            self.chain.make("assign", settings=files)
            files = {**files, **data, "files.expert": f"expert_{name}"}
            self.chain.make("finetune", settings={**STEPS["finetune"], **files})
            self.chain.make("evaluate", settings={**files, "evaluate.experts": "finetuned", "evaluate.pictures": "false",
                                                  "evaluate.timing_batch": 0, "files.metrics": f"metrics_{name}.h5"})
        experts = sorted(path.name.removeprefix("expert_stored") for path in self.chain.folder.glob("expert_stored*.h5"))
        self.checks.that(len(experts) > 0, "experts")
        for expert in experts:
            self.same("expert of states computed", f"expert_stored{expert}", f"expert_computed{expert}")
        with h5py.File(self.chain.path("metrics_stored.h5")) as one, h5py.File(self.chain.path("metrics_computed.h5")) as two:
            self.checks.that(numpy.array_equal(one["denoising/loss"][...], two["denoising/loss"][...]), "evaluation of states computed")

    def sample(self):
        """Of a split: the same pictures from states and from ids."""
        self.chain.make("sample", settings={**PIPELINE, "files.data": "stored.h5", "files.samples": "samples_stored.h5", "sample.limit": 2})
        self.chain.remove(*[str(path.relative_to(self.chain.folder)) for path in self.chain.folder.glob("samples/*.png")])
        self.chain.make("sample", settings={**PIPELINE, "files.data": "computed.h5", "files.samples": "samples_computed.h5", "sample.limit": 2})
        with h5py.File(self.chain.path("samples_stored.h5")) as one, h5py.File(self.chain.path("samples_computed.h5")) as two:
            self.checks.that(len(one["pixels"]) == 4 and numpy.array_equal(one["pixels"][...], two["pixels"][...]), "pictures of states computed")

    def pretrain(self):
        """With prompts dropped: the empty prompt's states are computed, too."""
        settings = {"pretrain.unet": "model/unet/config.json", "pretrain.steps": 2, "pretrain.prompt_dropout": 0.5}
        for name, data in DATA.items():
            self.chain.remove("pretrain.checkpoint.h5", "pretrain.csv")
            self.chain.make("pretrain", settings={**settings, **data, "files.teacher": f"pretrained_{name}.h5"})
        self.same("pretrain of states computed", "pretrained_stored.h5", "pretrained_computed.h5")

    def deviations_matter(self):
        """Without its deviations the same data train to another loss."""
        shutil.copy(self.chain.path("stored.h5"), self.chain.path("still.h5"))
        with h5py.File(self.chain.path("still.h5"), "r+") as file:
            for split in "train", "validation":
                file[f"{split}/latent_deviation"][...] = 0
        self.chain.remove("prune.checkpoint.h5", "prune.csv")
        self.chain.make("prune", settings={**STEPS["prune"], "files.data": "still.h5", "files.router": "still_router.h5"})
        losses = [h5py.File(self.chain.path(name))["history/ddpm"][0] for name in ("router.h5", "still_router.h5")]
        self.checks.that(abs(losses[0] / losses[1] - 1) > 1e-3, f"losses with and without deviations: {losses}")

    # ---- what is refused

    def refusals(self):
        shutil.copytree(self.chain.path("model"), self.chain.path("other"))
        path = self.chain.path("other/text_encoder/config.json")
        path.write_text(path.read_text().replace('"gelu"', '"quick_gelu"'))
        data, other = {"files.data": "computed.h5", **STEPS["prune"]}, {"data.pipeline": "other"}
        self.expect("ids alone", "prune", data, INPUT_FAULT, "computed.h5 has token ids", "data.pipeline")
        self.expect("another encoder", "prune", {**data, **other}, INPUT_FAULT, "other and ./computed.h5 belong to different text encoders")
        self.expect("the same under --check", "prune", {**data, **other}, INPUT_FAULT, "different text encoders", arguments=["--check"])
        self.expect("--check", "prune", {**data, **PIPELINE, "run.log": "normal"}, 0, "for token states, computed 8 prompts at a time",
                    arguments=["--check"])
        settings = {"pretrain.unet": "model/unet/config.json", "files.data": "computed.h5", "files.teacher": "bad.h5"}
        self.expect("pretrain", "pretrain", settings, INPUT_FAULT, "computed.h5 has token ids", "data.pipeline")
        self.expect("sample", "sample", {"files.data": "computed.h5", "sample.split": "train"}, INPUT_FAULT,
                    "computed.h5 has token ids", "data.pipeline")

    def damaged(self):
        """Ids that no token has, deviations that are not there."""
        for what, value in (("negative", -1), ("too large", 10**6)):
            shutil.copy(self.chain.path("computed.h5"), self.chain.path("bad.h5"))
            with h5py.File(self.chain.path("bad.h5"), "r+") as file:
                file["train/text_ids"][:, 3] = value
            self.chain.remove("prune.checkpoint.h5", "prune.csv")
            self.expect(what, "prune", {"files.data": "bad.h5", **PIPELINE, **STEPS["prune"]}, INPUT_FAULT, f"token 3 is {value}, 0..573 allowed")
        shutil.copy(self.chain.path("stored.h5"), self.chain.path("bad.h5"))
        with h5py.File(self.chain.path("bad.h5"), "r+") as file:
            del file["train/latent_deviation"]
        self.expect("no deviation", "prune", {"files.data": "bad.h5", **STEPS["prune"]}, INPUT_FAULT, "train/latent_deviation")


def main():
    with tempfile.TemporaryDirectory(prefix="aptp_states_") as folder:
        trial = Trial(sys.argv[1], folder)
        for part in (trial.prune, trial.later_phases, trial.sample, trial.pretrain, trial.deviations_matter, trial.refusals, trial.damaged):
            part()
        trial.checks.end()


if __name__ == "__main__":
    main()
