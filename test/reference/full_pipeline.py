"""Stable Diffusion 2.1 at its full size with random weights, as a downloaded folder holds it: full_pipeline.py FOLDER, 2.6 GB in fp16.

For rehearsals of what the published weights would be used for: `make rehearsal`.
"""

import json
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import full_clip_text
from clip_text import clip_tokenizer

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
    folder = Path(sys.argv[1])
    torch.manual_seed(1)
    clip_tokenizer.write_folder(folder / "tokenizer", clip_tokenizer.published_merges(), "!")
    unet = {key: value for key, value in json.loads((ROOT / "input/sd21/unet.json").read_text()).items() if not key.startswith("_")}
    StableDiffusionPipeline(
        vae=half(lambda: AutoencoderKL(**VAE)), text_encoder=half(lambda: CLIPTextModel(CLIPTextConfig(**full_clip_text.CONFIG))),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"), unet=half(lambda: UNet2DConditionModel(**unet)),
        scheduler=PNDMScheduler(**SCHEDULER), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False).save_pretrained(folder)


if __name__ == "__main__":
    main()
