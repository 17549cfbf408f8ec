"""What phase evaluate measures with: a small CLIPModel with a tokenizer, and features by it, by another CLIPModel's image encoder and
by a narrow InceptionV3, of the pictures and captions of a small run (test/support/chain.py).

A reference of model "metric_networks": inputs/text [N] with outputs/text_embeds [N, P], texts for the tokenizer and its encoder;
originals [48, H, W, 3], larger pictures in the place of the run's, made [48, h, w, 3], generated ones, and caption [48], all in the
run's order; features/<network>_<originals, made or caption> [48, F] of what evaluate makes of them: each brought to the run's size as
prepare brings pictures, then read by each network in its own way.
"""

import csv
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import functional
from transformers import CLIPModel, CLIPTokenizer

import clip
import fixture
import inception
import resize
from clip_text import clip_tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))
import chain  # noqa: E402

FOLDER, OTHER = "clip_metric", "clip_vision_whole"
MERGES, TOKENS, SIDE, WIDTH = 150, 20, 14, 9
TEXTS = ["a red apple", "", "two dogs, and a cat!!", "na\u00efve \u00c9CLAIR \u4e2d\u6587 \U0001f34e",
         "a very long prompt of which the end is cut off: one two three four five six seven", "the " * 18, "the " * 19]


def make_clip():
    """As openai's folders are: both encoders, padding by the end token, an end token 2 in the configuration."""
    folder = fixture.FOLDER / FOLDER
    clip_tokenizer.write_folder(folder, clip_tokenizer.published_merges()[:MERGES], "<|endoftext|>", TOKENS)
    vocabulary = len(json.loads((folder / "vocab.json").read_text()))
    clip.make_whole(FOLDER, dict(vocab_size=vocabulary, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
                                 max_position_embeddings=TOKENS, eos_token_id=2),
                    dict(hidden_size=16, intermediate_size=28, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE, patch_size=7),
                    WIDTH)
    resize.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


def text_features(folder, texts):
    tokenizer, model = CLIPTokenizer.from_pretrained(folder), CLIPModel.from_pretrained(folder).double().eval()
    ids = tokenizer(texts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt")["input_ids"]
    pooled = model.text_model(input_ids=ids).pooler_output
    return model.text_projection(pooled)


def picture_features(folder, images):
    processor, model = resize.CLIPImageProcessor.from_pretrained(folder), CLIPModel.from_pretrained(folder).double().eval()
    pixels = torch.tensor(resize.preprocess(processor, images)).double()
    return model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)


def inception_features(network, images):
    pixels = torch.tensor(np.stack(images)).permute(0, 3, 1, 2).float()
    pixels = torch.nn.functional.interpolate(pixels, size=(299, 299), mode="bilinear", align_corners=False)
    return inception.features_of(network, pixels.double())


def square(image):
    """As prepare: torchvision's Resize and CenterCrop of a Pillow picture."""
    small = functional.resize(Image.fromarray(image), chain.SIZE, functional.InterpolationMode.BILINEAR)
    return np.asarray(functional.center_crop(small, chain.SIZE))


def pictures_and_captions():
    """The run's pictures, larger and noisy; others of other noise; the captions."""
    with tempfile.TemporaryDirectory() as scratch:
        chain.write_pictures(Path(scratch))
        rows = list(csv.DictReader(open(Path(scratch, "pictures", "index.csv"), newline="")))
        images = [Image.open(Path(scratch, "pictures", row["file"])).convert("RGB") for row in rows]
    rng = fixture.generator("metric_networks")

    def noisy(width, height, deviation):
        large = np.stack([np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)) for image in images])
        return np.clip(large + rng.normal(0, deviation, large.shape), 0, 255).astype(np.uint8)
    return noisy(20, 24, 10), noisy(20, 20, 40), [row["caption"] for row in rows]


def main():
    folder, other = make_clip(), fixture.FOLDER / OTHER
    network = inception.randomise(inception.make_network(16), fixture.generator("inception_narrow weights")).double()
    originals, made, captions = pictures_and_captions()
    features = {}
    with torch.no_grad():
        embeds = text_features(folder, TEXTS)
        features["clip_caption"] = text_features(folder, captions)
        for name, images in dict(originals=originals, made=made).items():
            squares = [square(image) for image in images]
            features[f"clip_{name}"] = picture_features(folder, squares)
            features[f"other_{name}"] = picture_features(other, squares)
            features[f"inception_{name}"] = inception_features(network, squares)
    fixture.write("metric_networks", "metric_networks", dict(folder=FOLDER), inputs=dict(text=TEXTS),
                  outputs=fixture.single(dict(text_embeds=embeds)), pictures=dict(originals=originals, made=made, caption=captions),
                  features=fixture.single(features))


if __name__ == "__main__":
    main()
