"""Stable Diffusion 2.1 at its full size with random weights, as a downloaded folder holds it: full_pipeline.py FOLDER TOKENIZER, 2.6 GB
in fp16. TOKENIZER: the folder of its tokenizer, build/venv/clip_tokenizer/sd2.

For rehearsals of what the published weights would be used for: `make rehearsal`.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import full_clip_text

ROOT = Path(__file__).resolve().parents[2]
VAE = dict(block_out_channels=(128, 256, 512, 512), layers_per_block=2, sample_size=768,
           down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4)
SCHEDULER = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000, set_alpha_to_one=False,
                 skip_prk_steps=True, steps_offset=1, prediction_type="v_prediction")


def half(make):
    """A module whose weights are made in fp16 from the beginning: in fp32 all of them would be 5 GB."""
    torch.set_default_dtype(torch.float16)
    try:
        return make()
    finally:
        torch.set_default_dtype(torch.float32)


def main():
    folder, tokenizer = Path(sys.argv[1]), Path(sys.argv[2])
    torch.manual_seed(1)
    unet = {key: value for key, value in json.loads((ROOT / "input/sd21/unet.json").read_text()).items() if not key.startswith("_")}
    StableDiffusionPipeline(
        vae=half(lambda: AutoencoderKL(**VAE)), text_encoder=half(lambda: CLIPTextModel(CLIPTextConfig(**full_clip_text.CONFIG))),
        tokenizer=CLIPTokenizer.from_pretrained(tokenizer), unet=half(lambda: UNet2DConditionModel(**unet)),
        scheduler=PNDMScheduler(**SCHEDULER), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False).save_pretrained(folder)
    shutil.copytree(tokenizer, folder / "tokenizer", dirs_exist_ok=True)  # the files of its own time too


if __name__ == "__main__":
    main()
