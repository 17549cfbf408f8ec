"""The text model of Stable Diffusion 2.1 at its full size, random: a published folder and its reference in build/reference.

Prints the path of the reference, for `verify`. 1.4 GB; transformers in float32, as pipelines run it.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

import numpy as np  # noqa: E402
import torch  # noqa: E402
from transformers import CLIPTextConfig, CLIPTextModel  # noqa: E402

import fixture  # noqa: E402

NAME = "full_clip_text"

# What its config.json says; OpenCLIP's ViT-H/14 without the last layer.
CONFIG = dict(vocab_size=49408, hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16,
              max_position_embeddings=77, hidden_act="gelu", layer_norm_eps=1e-5, projection_dim=512, bos_token_id=0, eos_token_id=2,
              pad_token_id=1)


def rows():
    """Three prompts as the tokenizer gives them: short, full, empty; padded by 0."""
    rng = fixture.generator(NAME)
    ids = np.zeros((3, 77), np.int64)
    for row, tokens in zip(ids, (12, 75, 0)):
        row[:tokens + 2] = [49406, *rng.integers(0, 49406, tokens), 49407]
    return ids


def randomise(model):
    """Weights of the size that trained ones have, biases and norms away from 0 and 1."""
    generator = torch.Generator().manual_seed(int(fixture.generator(NAME).integers(2**31)))
    with torch.no_grad():
        for key, weight in model.named_parameters():
            norm = "norm" in key and key.endswith("weight")
            scale = 0.1 if norm or key.endswith("bias") else 0.05 if "embedding" in key else weight.shape[-1] ** -0.5
            weight.copy_(torch.randn(weight.shape, generator=generator) * scale + norm)
    return model.eval()


def main():
    fixture.FOLDER = ROOT / "build" / "reference"
    model = randomise(CLIPTextModel(CLIPTextConfig(**CONFIG)))
    model.save_pretrained(fixture.FOLDER / NAME)
    ids = torch.tensor(rows())
    with torch.no_grad():
        hidden = model(input_ids=ids).last_hidden_state
    print(fixture.write(NAME, "clip_text", dict(folder=NAME), inputs=dict(input_ids=ids), outputs=dict(last_hidden_state=hidden)))


if __name__ == "__main__":
    sys.exit(main())
