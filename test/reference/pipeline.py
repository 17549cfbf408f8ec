"""A whole Stable Diffusion in small, as diffusers saves its StableDiffusionPipeline, and what that pipeline paints.

A reference of model "text_to_image": root attributes folder, steps, guidance; inputs/prompt, inputs/negative_prompt (one of each
picture) and inputs/latents [N, 4, h, w], the initial noise; outputs/image [N, H, W, 3] in 0..1, by the pipeline's own PNDM scheduler.
"""

import json

import numpy as np
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import fixture
import unet
import vae
from clip import randomise
from clip_text import clip_tokenizer

NAME, MERGES, TOKENS, WIDTH = "pipeline_small", 60, 12, 18
# Stable Diffusion 2.1's, but for the prediction, which is 1.5's and 2.1-base's.
SCHEDULER = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000, set_alpha_to_one=False,
                 skip_prk_steps=True, steps_offset=1)
UNET = dict(unet.SD1, block_out_channels=(8, 16), norm_num_groups=4, attention_head_dim=2)
PROMPTS = ["a red apple", "two dogs, and a cat!", "", "a very long prompt of which the end is cut off: one two three four"]


def make_text(folder):
    clip_tokenizer.write_folder(folder / "tokenizer", clip_tokenizer.published_merges()[:MERGES], "!", TOKENS)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    count = len(json.loads((folder / "tokenizer" / "vocab.json").read_text()))
    config = CLIPTextConfig(vocab_size=count, hidden_size=WIDTH, intermediate_size=30, num_hidden_layers=2, num_attention_heads=2,
                            max_position_embeddings=TOKENS, hidden_act="gelu", eos_token_id=2)
    return tokenizer, randomise(CLIPTextModel(config), NAME)


def make():
    """The pipeline in float64, its folder saved in fp32."""
    folder = fixture.FOLDER / NAME
    tokenizer, text_encoder = make_text(folder)
    unet.make(f"{NAME}/unet", UNET)
    vae.make(f"{NAME}/vae", block_out_channels=(4, 8, 8, 8), layers_per_block=1, norm_num_groups=4, latent_channels=4, sample_size=64,
             down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(folder / "vae"), text_encoder=text_encoder, tokenizer=tokenizer,
        unet=UNet2DConditionModel.from_pretrained(folder / "unet"), scheduler=PNDMScheduler(**SCHEDULER), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False)
    pipeline.save_pretrained(folder)
    for name in ("unet", "vae"):  # whose configurations would say where they were read
        path = folder / name / "config.json"
        values = {key: value for key, value in json.loads(path.read_text()).items() if key != "_name_or_path"}
        path.write_text(json.dumps(values, indent=2) + "\n")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(torch.float64)


def write_images(pipeline, name, steps, guidance, height, width, negative):
    latents = np.float32(fixture.generator(name).standard_normal((len(PROMPTS), 4, height, width)))
    image = pipeline(PROMPTS, negative_prompt=[negative] * len(PROMPTS), height=8 * height, width=8 * width, num_inference_steps=steps,
                     guidance_scale=guidance, latents=torch.tensor(latents, dtype=torch.float64), output_type="np").images
    inside = np.mean((image > 0) & (image < 1))
    assert inside > 0.5, f"{inside:.0%} of the values are not clipped"
    fixture.write(name, "text_to_image", dict(folder=NAME, steps=steps, guidance=guidance),
                  inputs=dict(prompt=PROMPTS, negative_prompt=[negative] * len(PROMPTS), latents=latents),
                  outputs=fixture.single(dict(image=image)))


def main():
    pipeline = make()
    write_images(pipeline, "text_to_image", 25, 7.5, 8, 8, "")
    write_images(pipeline, "text_to_image_wide", 4, 3.0, 6, 10, "blurry, two dogs")


if __name__ == "__main__":
    main()
