"""Resized pictures: PyTorch's interpolate as clean-fid's mode legacy_pytorch calls it; transformers' CLIPImageProcessor."""

import numpy as np
import torch
from PIL import Image

try:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil as CLIPImageProcessor
except ImportError:
    from transformers import CLIPImageProcessor

import fixture


def rows_first(image, size, resample=None, box=None, reducing_gap=None, resize=Image.Image.resize):
    """Rows, then columns, in every version: Pillow 13 begins with the columns where a tall picture shrinks."""
    assert box is None and reducing_gap is None
    return resize(resize(image, (size[0], image.height), resample), size, resample)


Image.Image.resize = rows_first  # which transformers calls


def pictures(name, count, height, width):
    """Noise over a gradient with hard edges, [N, H, W, 3]."""
    rng = fixture.generator(name)
    y, x = np.mgrid[0:height, 0:width]
    base = np.stack([255 * y / height, 255 * x / width, 128 + 127 * np.sin(x / 3.0) * np.sign(y - 9)], -1)
    return np.clip(base + rng.normal(0, 30, (count, *base.shape)), 0, 255).astype(np.uint8)


def preprocess(processor, images):
    """pixel_values [N, 3, S, S] of pictures [H, W, 3]."""
    return np.stack([processor(Image.fromarray(image))["pixel_values"][0] for image in images])


def write_fid(name, count, height, width, size=None):
    images = pictures(name, count, height, width)
    out = torch.nn.functional.interpolate(torch.tensor(images).permute(0, 3, 1, 2).float(), size=(size or 299,) * 2,
                                          mode="bilinear", align_corners=False).clip(0, 255)
    attributes = dict(mode="fid_legacy", **({"size": size} if size else {}))
    fixture.write(name, "resize", attributes, inputs=dict(image=images), outputs=dict(image=out), pack=not size)


def write_clip(name, count, height, width, size=None):
    images = pictures(name, count, height, width)
    sizes = dict(size={"shortest_edge": size}, crop_size={"height": size, "width": size}) if size else {}
    out = preprocess(CLIPImageProcessor(**sizes), images)
    attributes = dict(mode="clip", **({"size": size} if size else {}))
    fixture.write(name, "resize", attributes, inputs=dict(image=images), outputs=dict(image=out), pack=not size)


def write_clip_folder(name, folder, count, height, width, **settings):
    """The settings are those of the folder's preprocessor_config.json."""
    processor = CLIPImageProcessor(**settings)
    processor.save_pretrained(fixture.FOLDER / folder)
    images = pictures(name, count, height, width)
    fixture.write(name, "resize", dict(mode="clip", folder=folder), inputs=dict(image=images),
                  outputs=dict(image=preprocess(processor, images)))


def main():
    write_fid("resize_fid_usual", 1, 1, 2)
    write_fid("resize_fid_down", 2, 61, 40, 23)
    write_fid("resize_fid_up", 1, 5, 7, 32)
    write_fid("resize_fid_thin", 1, 3, 30, 16)
    write_fid("resize_fid_tall", 1, 40, 1, 9)
    write_clip("resize_clip_usual", 1, 1, 1)
    write_clip("resize_clip_down", 2, 61, 40, 23)
    write_clip("resize_clip_up", 1, 7, 5, 32)
    write_clip("resize_clip_thin", 1, 8, 80, 21)
    write_clip("resize_clip_tall", 1, 90, 9, 16)
    write_clip("resize_clip_line", 1, 1, 12, 15)
    write_clip("resize_clip_same", 1, 20, 31, 20)
    write_clip_folder("resize_clip_folder", "resize_clip_folder", 2, 52, 33, size={"shortest_edge": 24},
                      crop_size={"height": 17, "width": 17}, resample=2, image_mean=[0.5, 0.1, -0.2],
                      image_std=[0.5, 2.0, 0.3])


if __name__ == "__main__":
    main()
