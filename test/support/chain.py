"""A small run for tests of whole phases: pictures, decks, and the program on them; each phase takes about a second.

    chain = Chain(program, folder)
    chain.make("prepare", "pretrain", "prune", "assign")
    result = chain.run("prune", ranks=2, settings={"prune.steps": 3})

Files lie in chain.folder. Threads are one a rank, so that results can be compared bit for bit.
"""
import json
import os
import pathlib
import resource
import shlex
import subprocess
import sys

import h5py
import numpy
from PIL import Image

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "postproc"))
import compare_h5  # noqa: E402  (in postproc, which is no package)

PICTURES, SIZE = 48, 16
OUTPUT = {"prepare": "data.h5", "pretrain": "teacher.h5", "clip": "clip.h5", "prune": "router.h5", "assign": "assignment.h5"}
TIMEOUT = 120  # seconds: what takes longer hangs

UNET = {
    "_class_name": "UNet2DConditionModel", "sample_size": 8, "in_channels": 12, "out_channels": 12,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "block_out_channels": [8, 16], "layers_per_block": 2, "attention_head_dim": [2, 4],
    "cross_attention_dim": 32, "use_linear_projection": True, "norm_num_groups": 4,
}

CLIP_VISION = {
    "model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "image_size": 16, "patch_size": 4, "projection_dim": 12,
}

PHASE = {"clip": "pretrain"}  # of decks that are not named like their phase
DECKS = {
    "prepare": """
data: {
    source = "pictures/index.csv"; sentence_encoder = "%s"; image_size = 16; latent = "haar"; flips = true;
    validation_fraction = 0.25; max_tokens = 12; text_batch = 8; shard_size = 20;
};
""" % (REPOSITORY / "test/fixtures/bert_small"),
    "import": """
import: { folder = "model"; };
""",
    "pretrain": """
pretrain: {
    unet = "unet.json"; steps = 6; batch = 8; micro_batch = 2; learning_rate = 1e-3; lr_warmup = 2;
    prompt_dropout = 0.3; ema_decay = 0.9; checkpoint_every = 2; half = false;
};
""",
    "clip": """
pretrain: {
    model = "clip"; clip_vision = "clip_vision.json"; steps = 6; batch = 8; micro_batch = 4; learning_rate = 1e-3;
    lr_warmup = 2; ema_decay = 0.9; shift = 2; checkpoint_every = 2; half = false;
};
""",
    "prune": """
prune: {
    budget = 0.7; warmup_steps = 2; steps = 5; batch = 8; micro_batch = 2; learning_rate = 0.2; lr_warmup = 2;
    w_spread_max = 0.1; w_spread_std = 0.1; final_draws = 3; checkpoint_every = 2;
};
router: { experts = 3; ff_entries = 4; };
""",
    "assign": """
assign: { batch = 8; macs_resolutions = [16]; };
""",
    "finetune": """
finetune: {
    steps = 6; batch = 6; micro_batch = 2; learning_rate = 1e-3; lr_warmup = 2; ema_decay = 0.9; prompt_dropout = 0.2;
    checkpoint_every = 2; half = false;
};
""",
    "sample": """
data: { sentence_encoder = "%s"; max_tokens = 12; };
sample: { experts = "sliced"; split = "validation"; images = 2; steps = 3; guidance = 3.0; batch = 4; };
""" % (REPOSITORY / "test/fixtures/bert_small"),
    "evaluate": """
evaluate: {
    experts = "sliced"; timesteps = [100, 500, 900]; batch = 3; bootstrap = 20; half_samples = 5; timing_batch = 1;
};
""",
    "export": """
export: { half = false; };
""",
    "bench": """
bench: { resolutions = [8]; batch_sizes = [1, 3]; tokens = 12; repeats = 1; roof_seconds = 0.0; train_batch = 2; };
""",
}
COMMON = 'phase = "%s";\nrun: { folder = "."; seed = 7; precision = "fp32"; log = "quiet"; };\n'


def environment():
    """What every run of the program gets."""
    one_thread = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return {**os.environ, **one_thread, **root}


def write_pictures(folder):
    """Coloured shapes on a ground, whose captions say what is seen."""
    colours = {"red": (220, 40, 30), "green": (40, 180, 60), "blue": (30, 60, 220), "grey": (128, 128, 128)}
    shapes = ["square", "bar", "disc"]
    random = numpy.random.default_rng(5)
    (folder / "pictures").mkdir()
    rows, place = ["file,caption,group"], numpy.indices((SIZE, SIZE))
    for i in range(PICTURES):
        colour, shape = list(colours)[i % 4], shapes[i // 4 % 3]
        y, x = place[0] - SIZE // 2, place[1] - SIZE // 2
        size = 3 + i // 12
        inside = {"square": numpy.maximum(abs(y), abs(x)) < size, "bar": abs(y) < size // 2,
                  "disc": y * y + x * x < size * size}[shape]
        picture = random.integers(200, 256, (SIZE, SIZE, 3), dtype=numpy.uint8)
        picture[inside] = colours[colour]
        Image.fromarray(picture).save(folder / "pictures" / f"{i}.png")
        rows.append(f"{i}.png,{colour} {shape} of size {size},{shape}")
    (folder / "pictures" / "index.csv").write_text("\n".join(rows) + "\n")


class Chain:
    def __init__(self, program, folder):
        self.program, self.folder = pathlib.Path(program).resolve(), pathlib.Path(folder)
        write_pictures(self.folder)
        (self.folder / "unet.json").write_text(json.dumps(UNET))
        (self.folder / "clip_vision.json").write_text(json.dumps(CLIP_VISION))
        for name, deck in DECKS.items():
            (self.folder / f"{name}.cfg").write_text(COMMON % PHASE.get(name, name) + deck)

    def command(self, phase, ranks=0, settings=None, arguments=()):
        """The words of a command line; ranks = 0 is the program alone, without mpirun."""
        launcher = []
        if ranks:
            mpirun = os.environ.get("APTP_MPIRUN", "mpirun --bind-to none --oversubscribe")
            launcher = [*shlex.split(mpirun), "-np", str(ranks)]
        sets = [word for key, value in (settings or {}).items() for word in ("--set", f"{key}={value}")]
        return [*launcher, str(self.program), f"{phase}.cfg", *sets, *arguments]

    def run(self, phase, ranks=0, settings=None, file_limit=None, arguments=()):
        """Runs a phase to its end; the result has returncode and, in stdout, all that was said. With file_limit no file can be
        longer than that; Open MPI is then told to share no memory by files."""
        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
        limited, no_files = file_limit is not None, {"PMIX_MCA_gds": "hash", "OMPI_MCA_btl": "self,tcp"}
        return subprocess.run(self.command(phase, ranks, settings, arguments), cwd=self.folder,
                              env={**environment(), **(no_files if limited else {})}, preexec_fn=limit if limited else None,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT, errors="replace")

    def start(self, phase, ranks=0, settings=None):
        """Starts a phase and returns without waiting for it."""
        return subprocess.Popen(self.command(phase, ranks, settings), cwd=self.folder, env=environment(),
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")

    def make(self, *phases, **options):
        """Runs phases that must succeed."""
        for phase in phases:
            result = self.run(phase, **options)
            assert result.returncode == 0, f"{phase}: exit code {result.returncode}\n{result.stdout}"

    def path(self, name):
        return self.folder / name

    def remove(self, *names):
        for name in names:
            self.path(name).unlink(missing_ok=True)


def differences(a, b):
    """Of two HDF5 files, all datasets bit for bit; each difference a line of text."""
    return compare_h5.compare(str(a), str(b))


# Weights are about 0.1 and fp32 gradients are sums in another order: AdamW's normalisation lifts a relative 1e-7 of the smallest
# gradients to at most about the learning rate (1e-3) times the relative change, so 1e-5 is far above rounding, and far below a step.
WEIGHT_LIMIT = 1e-5


def weights_apart(a, b):
    """The largest difference of two files, over all weights but the biases of keys: such a bias adds the same to all scores of a
    softmax, so its gradient is rounding alone, of which AdamW makes whole steps."""
    with h5py.File(a) as first, h5py.File(b) as second:
        names = [name for name in first["weights"] if not name.endswith("k_proj.bias")]
        assert first["weights"].keys() == second["weights"].keys() and len(names) > 30
        return max(float(numpy.abs(first["weights"][name][()] - second["weights"][name][()]).max()) for name in names)


class Checks:
    """Counts what was expected and what was not so, and says so."""

    def __init__(self):
        self.passed, self.failed = 0, 0

    def that(self, condition, text):
        if condition:
            self.passed += 1
        else:
            self.failed += 1
            print(f"FAILED: {text}", flush=True)
        return condition

    def end(self):
        print(f"{self.passed} passed, {self.failed} failed")
        sys.exit(1 if self.failed else 0)


if __name__ == "__main__":  # chain.py APTP FOLDER: all files of a chain, for tests that are not written in Python
    Chain(sys.argv[1], sys.argv[2]).make(*OUTPUT)
