"""What phase export writes, in diffusers (make check-python; it needs torch, diffusers, transformers and h5py).

Two small runs with random weights, of Stable Diffusion 2's and 1's kind, whose experts keep everything, odd parts, and as little as can
be. The experts' forward pass and gradients by diffusers become references (model unet_expert) that the program must verify;
from_pretrained, save_pretrained and whole pipelines; the router and the sentence encoder against assignment.h5 and data.h5. Then the
experts of another run, the demo's, where they are there.

Usage: check_diffusers.py APTP [RUN]
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import h5py
import numpy as np
import torch
from safetensors.torch import load_file

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
SCRATCH = tempfile.TemporaryDirectory()
os.environ["APTP_FIXTURES"] = SCRATCH.name  # where test/reference writes
sys.path[:0] = [str(REPOSITORY / folder) for folder in ("postproc", "test/support", "test/reference")]
os.environ["PYTHONPATH"] = str(REPOSITORY / "postproc")
import diffusers  # noqa: E402
import transformers  # noqa: E402

for library in (diffusers, transformers):
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()
import fixture  # noqa: E402
import unet as reference  # noqa: E402
from aptp_diffusers import RoutedPipeline, SentenceEncoder, SlicedUNet2DConditionModel  # noqa: E402
from chain import UNET, Chain, Checks, environment  # noqa: E402
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel  # noqa: E402
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer  # noqa: E402

ENCODER = REPOSITORY / "test/fixtures/bert_small"
SD2 = {**UNET, "block_out_channels": [8, 16, 24], "attention_head_dim": [2, 4, 3],
       "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
       "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]}
SD1 = {**UNET, "block_out_channels": [8, 24], "attention_head_dim": 8, "norm_num_groups": 8, "use_linear_projection": False}
TOLERANCE = 1e-5  # of a network in fp32 in two frameworks or two sizes of batch, relative to the largest value


def close(a, b, tolerance):
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    return a.shape == b.shape and float(np.abs(a - b).max()) <= tolerance * float(np.abs(b).max())


# ---- a run whose experts keep what the test wants


def choose_gates(path):
    """Expert 0 keeps everything, 1 an odd number of entries of each unit and drops a third of what can be dropped, 2 one entry of each
    unit and drops everything."""
    rng = np.random.default_rng(1)
    with h5py.File(path, "r+") as file:
        gates, first, width = file["gates"][...], file["units/first"][...], file["units/width"][...]
        entries = int(width.sum())
        gates[0], gates[2] = 0.9, 0.1
        for f, w in zip(first, width, strict=True):
            gates[1, f : f + w] = rng.permutation(w) < rng.choice(np.arange(1, max(w, 2), 2))
            gates[2, f + rng.integers(w)] = 0.7
        gates[1, entries:] = np.arange(gates.shape[1] - entries) % 3 != 0
        file["gates"][...] = gates


def make_run(program, folder, config):
    folder.mkdir()
    chain = Chain(program, folder)
    chain.path("unet.json").write_text(json.dumps(config))
    chain.make("prepare", "pretrain", "prune")
    choose_gates(chain.path("router.h5"))
    chain.make("assign", "finetune", "export")
    return chain


# ---- an expert


def check_arrays(checks, folder, expert_file, name):
    """The exported arrays are those of the HDF5 file, bit for bit."""
    arrays = load_file(folder / "diffusion_pytorch_model.safetensors")
    with h5py.File(expert_file) as file:
        stored = {key: file["weights"][key][...] for key in file["weights"]}
    same = arrays.keys() == stored.keys() and all(
        arrays[key].numpy().tobytes() == stored[key].astype(np.float32).tobytes() and arrays[key].shape == stored[key].shape for key in arrays)
    checks.that(same, f"{name}: arrays of the exported folder and of the expert's file differ")


def check_forward(checks, program, folder, unet, expert_file, name):
    """diffusers' output and gradients, which the program must verify with the exported weights."""
    with h5py.File(expert_file) as file:
        mask, ff_entries = file["mask"][...], int(file["settings/ff_entries"][0])
    with h5py.File(expert_file.parent / "router.h5") as file:
        widths = {p.decode(): (f, w) for p, f, w in zip(file["units/path"][...], file["units/first"][...], file["units/width"][...], strict=True)}
        depths = [p.decode() for p in file["depth/path"][...]]
    B, entries = 2, len(mask) - len(depths)
    gates = {path: np.tile(mask[f : f + w], (B, 1)) for path, (f, w) in widths.items()}
    gates |= {f"{path}.depth": np.full(B, mask[entries + i]) for i, path in enumerate(depths)}
    size = unet.config.sample_size or 8
    inputs = reference.inputs_for(name, unet.config, B=B, T=5, size=(size, size), text_mask=[[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    outputs, gradients = reference.reference(unet.double(), inputs)
    path = fixture.write(name, "unet_expert", dict(folder=os.path.relpath(folder, SCRATCH.name), ff_entries=ff_entries),
                         inputs=fixture.single(inputs), outputs=fixture.single(outputs), gates=fixture.single({k: v.astype(float) for k, v in gates.items()}),
                         gradients=fixture.single(gradients))
    unet.float()
    command = [program, REPOSITORY / "input/verify.cfg", "--set", f"verify.reference={path}", "--set", f"run.folder={SCRATCH.name}/verify"]
    result = subprocess.run(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    wanted = f"{len(gradients) + 2} quantities, all within their limits"
    checks.that(result.returncode == 0 and wanted in result.stdout, f"{name}: verify, expected {wanted}:\n{result.stdout}")
    print(next((line for line in result.stdout.splitlines() if "outputs/sample" in line), ""))


def run_unet(unet):
    generator = torch.Generator().manual_seed(3)
    size = unet.config.sample_size or 8
    latents = torch.randn(2, unet.config.in_channels, size, size, generator=generator)
    text = torch.randn(2, 5, unet.config.cross_attention_dim, generator=generator)
    with torch.no_grad():
        return unet(latents, torch.tensor([10, 900]), text).sample.numpy()


def check_round_trip(checks, unet, name):
    folder = pathlib.Path(SCRATCH.name, f"{name}_saved")
    unet.save_pretrained(folder)
    again = SlicedUNet2DConditionModel.from_pretrained(folder)
    checks.that(np.array_equal(run_unet(unet), run_unet(again)), f"{name}: another output after save_pretrained and from_pretrained")
    checks.that(dict(again.config.aptp) == dict(unet.config.aptp), f"{name}: another description after save_pretrained and from_pretrained")


def check_experts(checks, program, run, name):
    for folder in sorted((run / "export").glob("expert_*")):
        one = f"{name}_{folder.name}"
        unet, info = SlicedUNet2DConditionModel.from_pretrained(folder, output_loading_info=True)
        checks.that(not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], f"{one}: weights do not fit: {info}")
        check_arrays(checks, folder, run / f"{folder.name}.h5", one)
        check_round_trip(checks, unet, one)
        check_forward(checks, program, folder, unet, run / f"{folder.name}.h5", one)


# ---- pipelines


def make_tokenizer(folder):
    """CLIP's, with single bytes for a vocabulary."""
    folder.mkdir()
    alphabet = [chr(c) for c in range(33, 127)]
    words = [*alphabet, *(c + "</w>" for c in alphabet), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=12), len(words)


def make_pipeline(unet, prediction):
    """A random text-to-image pipeline around a UNet of 12 latent channels."""
    torch.manual_seed(5)
    tokenizer, words = make_tokenizer(pathlib.Path(SCRATCH.name, "tokenizer"))
    text = CLIPTextModel(CLIPTextConfig(vocab_size=words, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
                                        max_position_embeddings=12, bos_token_id=words - 2, eos_token_id=words - 1)).eval()
    vae = AutoencoderKL(latent_channels=unet.config.in_channels, block_out_channels=(8, 16), norm_num_groups=4,
                        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2).eval()
    scheduler = PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1,
                              set_alpha_to_one=False, prediction_type=prediction)
    return StableDiffusionPipeline(vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet, scheduler=scheduler, safety_checker=None,
                                   feature_extractor=None, requires_safety_checker=False)


def options(prompts):
    return dict(num_inference_steps=3, guidance_scale=4.0, output_type="np", generator=[torch.Generator().manual_seed(i) for i in range(prompts)])


def check_pipeline(checks, run):
    unet = SlicedUNet2DConditionModel.from_pretrained(run / "export/expert_01")
    pipeline = make_pipeline(unet, "v_prediction")
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a red square", **options(1)).images
    checks.that(image.shape == (1, 16, 16, 3) and np.isfinite(image).all() and image.std() > 0, f"pipeline: picture {image.shape}, deviation {image.std()}")
    folder = pathlib.Path(SCRATCH.name, "pipeline")
    pipeline.save_pretrained(folder)
    again = StableDiffusionPipeline.from_pretrained(folder)
    again.set_progress_bar_config(disable=True)
    checks.that(type(again.unet) is SlicedUNet2DConditionModel, f"pipeline: UNet came back as {type(again.unet)}")
    checks.that(np.array_equal(image, again("a red square", **options(1)).images), "pipeline: another picture after save_pretrained and from_pretrained")
    return pipeline


def check_routing(checks, run, pipeline):
    """The pipeline that routes makes of each prompt what its expert alone makes of it."""
    encode = SentenceEncoder(ENCODER, max_tokens=12, batch=5)
    with h5py.File(run / "data.h5") as data, h5py.File(run / "assignment.h5") as assignment:
        captions = [text.decode() for text in data["train/caption"][...]]
        z, expert, similarity = data["train/embedding"][...], assignment["train/expert"][...], assignment["train/similarity"][...]
    checks.that(close(encode(captions), z, TOLERANCE), "routing: sentence embeddings differ from data.h5's")
    routed = RoutedPipeline.from_export(run / "export", pipeline, encode)
    checks.that(close(routed.router.similarity(z), similarity, 1e-12), "routing: similarities differ from assignment.h5's")
    checks.that(np.array_equal(routed.router.experts_of(z), expert), "routing: experts differ from assignment.h5's")

    rows = [int(np.flatnonzero(expert == k)[0]) for k in sorted(set(expert), reverse=True)] + [0, 1]
    prompts, negative = [captions[i] for i in rows], ["blue"] * len(rows)
    images = routed(prompts, negative_prompt=negative, **options(len(rows)))
    for i, row in enumerate(rows):
        pipeline.register_modules(unet=routed.experts[expert[row]])
        alone = pipeline(prompts[i], negative_prompt="blue", **{**options(1), "generator": torch.Generator().manual_seed(i)}).images[0]
        checks.that(close(images[i], alone, TOLERANCE), f"routing: picture of prompt {i} differs from its expert's own")
    two = routed(prompts[:2], num_images_per_prompt=2, **{**options(1), "generator": torch.Generator().manual_seed(1)})
    checks.that(len(two) == 4 and all(image.shape == (16, 16, 3) for image in two), "routing: two pictures a prompt")
    pipeline.scheduler = PNDMScheduler.from_config(pipeline.scheduler.config, prediction_type="epsilon")
    try:
        RoutedPipeline.from_export(run / "export", pipeline, encode)
        checks.that(False, "routing: a scheduler of another prediction was accepted")
    except ValueError as refused:
        checks.that("predicts v" in str(refused), f"routing: {refused}")


def check_half(checks, chain):
    """export.half: the nearest halves, which load too."""
    chain.make("export", settings={"export.half": "true", "export.expert": 1, "files.export": '"half"'})
    half = load_file(chain.path("half/expert_01/diffusion_pytorch_model.safetensors"))
    full = load_file(chain.path("export/expert_01/diffusion_pytorch_model.safetensors"))
    checks.that(all(torch.equal(half[key], full[key].half()) for key in full), "half: weights are not the nearest halves")
    unet = SlicedUNet2DConditionModel.from_pretrained(chain.path("half/expert_01"), torch_dtype=torch.float16)
    checks.that(unet.dtype is torch.float16, f"half: loaded as {unet.dtype}")


def check_keeps_all(checks, run):
    """The expert that keeps everything is the plain network."""
    folder = run / "export/expert_00"
    plain = UNet2DConditionModel.from_pretrained(folder)
    checks.that(np.array_equal(run_unet(plain), run_unet(SlicedUNet2DConditionModel.from_pretrained(folder))), "expert 0 differs from the plain UNet")


def main():
    program, others = pathlib.Path(sys.argv[1]).resolve(), [pathlib.Path(run).resolve() for run in sys.argv[2:]]
    checks, scratch = Checks(), pathlib.Path(SCRATCH.name)
    chains = {name: make_run(program, scratch / name, config) for name, config in dict(sd2=SD2, sd1=SD1).items()}
    for name, chain in chains.items():
        check_experts(checks, program, chain.folder, name)
        check_keeps_all(checks, chain.folder)
    check_half(checks, chains["sd2"])
    check_routing(checks, chains["sd2"].folder, check_pipeline(checks, chains["sd2"].folder))
    for run in others:
        if (run / "export/router").is_dir():
            check_experts(checks, program, run, run.name)
        else:
            print(f"{run}: nothing is exported there")
    checks.end()


if __name__ == "__main__":
    main()
