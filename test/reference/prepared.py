"""What prepare makes of pictures and captions with the small Stable Diffusion of pipeline.py, by diffusers and transformers.

A reference of model "prepared": root attribute folder; inputs/image [N, 64, 64, 3] uint8, inputs/text [N]; outputs/mean and
outputs/deviation [N, 2, 4, 8, 8], latent_dist's times the scaling factor, of the picture and of its mirror image; outputs/ids [N, 12],
outputs/states [N, 12, 18], outputs/cut [N] tokens that did not fit; outputs/empty_ids and outputs/empty_states of the empty prompt.
"""

import numpy as np
import torch
from diffusers import AutoencoderKL
from transformers import CLIPTextModel, CLIPTokenizer

import fixture
from pipeline import NAME, PROMPTS

SIDE, PICTURES = 64, 3
CAPTIONS = [PROMPTS[0], PROMPTS[1], PROMPTS[3]]  # not the empty one


def pictures():
    """Smooth colours with noise of their own: unlike their mirror images."""
    random = fixture.generator("prepared")
    y, x = np.indices((SIDE, SIDE)) / SIDE
    image = np.empty((PICTURES, SIDE, SIDE, 3))
    for i in range(PICTURES):
        for colour in range(3):
            a, b, c = random.uniform(-6, 6, 3)
            image[i, :, :, colour] = 0.5 + 0.35 * np.sin(a * x + b * y + c)
    return np.uint8(255 * np.clip(image + random.normal(0, 0.06, image.shape), 0, 1))


@torch.no_grad()
def encode_pictures(image):
    vae = AutoencoderKL.from_pretrained(fixture.FOLDER / NAME / "vae").double()
    both = np.stack([image, image[:, :, ::-1]], 1).reshape(-1, SIDE, SIDE, 3)
    pixels = torch.tensor(both.astype(np.float64) / 127.5 - 1).permute(0, 3, 1, 2)
    found = vae.encode(pixels).latent_dist
    scaled = [part.numpy() * vae.config.scaling_factor for part in (found.mean, found.std)]
    return [part.reshape(PICTURES, 2, *part.shape[1:]) for part in scaled]


@torch.no_grad()
def encode_texts(texts):
    folder = fixture.FOLDER / NAME
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    model = CLIPTextModel.from_pretrained(folder / "text_encoder").double()
    whole = [len(ids) for ids in tokenizer(texts).input_ids]
    ids = tokenizer(texts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt").input_ids
    return ids.numpy().astype(np.int32), model(ids).last_hidden_state.numpy(), np.maximum(np.array(whole) - ids.shape[1], 0)


def main():
    image = pictures()
    mean, deviation = encode_pictures(image)
    ids, states, cut = encode_texts(CAPTIONS + [""])
    mirrored = np.abs(mean[:, 0, :, :, ::-1] - mean[:, 1]).max()
    assert mirrored > 0.01, "the mirrored picture's latents are the mirrored latents"
    assert np.median(deviation) > 1e-3, "deviations that halves do not hold well"
    fixture.write("prepared", "prepared", dict(folder=NAME), inputs=dict(image=image, text=CAPTIONS),
                  outputs=fixture.single(dict(mean=mean, deviation=deviation, ids=ids[:-1], states=states[:-1], cut=cut[:-1],
                                              empty_ids=ids[-1], empty_states=states[-1])))


if __name__ == "__main__":
    main()
