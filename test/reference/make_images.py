"""Writes test/io/fixtures/images.h5: pictures as PNG and JPEG and what Pillow and torchvision's
Resize + CenterCrop make of them. Usage: python make_images.py OUTPUT"""
import io
import sys

import h5py
import numpy
from PIL import Image

rng = numpy.random.default_rng(3)


def picture(height, width):
    """Noise over a gradient with hard edges."""
    y, x = numpy.mgrid[0:height, 0:width]
    base = numpy.stack([255 * y / height, 255 * x / width, 128 + 127 * numpy.sin(x / 3.0) * numpy.sign(y - 9)], -1)
    return numpy.clip(base + rng.normal(0, 30, base.shape), 0, 255).astype(numpy.uint8)


def encoded(image, kind, **options):
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def scaled(image, width, height, resample):
    """Rows, then columns, in every version: Pillow 13 begins with the columns where a tall picture shrinks."""
    return image.resize((width, image.height), resample).resize((width, height), resample)


def resize_crop(image, size):
    """torchvision.transforms.Resize(size, BILINEAR) and CenterCrop(size) of a PIL image."""
    width, height = image.size
    short, long = min(width, height), max(width, height)
    if short != size:
        other = int(size * long / short)
        width, height = (size, other) if width <= height else (other, size)
        image = scaled(image, width, height, Image.BILINEAR)
    top, left = int(round((height - size) / 2.0)), int(round((width - size) / 2.0))
    return image.crop((left, top, left + size, top + size))


def over_white(image):
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def write(group, data, image, tolerance=0):
    group.create_dataset("file", data=numpy.frombuffer(data, numpy.uint8))
    group.create_dataset("pixels", data=numpy.asarray(image))
    group.attrs["tolerance"] = tolerance  # alpha: two ways of rounding


with h5py.File(sys.argv[1], "w") as file:
    decode = file.create_group("decode")
    colour = Image.fromarray(picture(13, 21))
    alpha = Image.fromarray(numpy.dstack([picture(13, 21), rng.integers(0, 256, (13, 21), numpy.uint8)]), "RGBA")
    grey = Image.fromarray(picture(13, 21)[..., 0], "L")
    palette = colour.quantize(16)
    write(decode.create_group("png_rgb"), encoded(colour, "PNG"), colour)
    write(decode.create_group("png_grey"), encoded(grey, "PNG"), grey.convert("RGB"))
    write(decode.create_group("png_palette"), encoded(palette, "PNG"), palette.convert("RGB"))
    write(decode.create_group("png_bit"), encoded(grey.convert("1"), "PNG"), grey.convert("1").convert("RGB"))
    write(decode.create_group("png_rgba"), encoded(alpha, "PNG"), over_white(alpha), 1)
    clear = palette.copy()
    clear.info["transparency"] = 3
    write(decode.create_group("png_transparent"), encoded(clear, "PNG", transparency=3), over_white(clear), 1)
    for name, options in {"jpeg_444": {"subsampling": 0}, "jpeg_420": {"subsampling": 2},
                          "jpeg_progressive": {"progressive": True}}.items():
        data = encoded(colour, "JPEG", quality=80, **options)
        write(decode.create_group(name), data, Image.open(io.BytesIO(data)).convert("RGB"))
    data = encoded(grey, "JPEG", quality=80)
    write(decode.create_group("jpeg_grey"), data, Image.open(io.BytesIO(data)).convert("RGB"))
    data = encoded(colour.convert("CMYK"), "JPEG", quality=80)
    file.create_dataset("refused/jpeg_cmyk", data=numpy.frombuffer(data, numpy.uint8))
    data = encoded(colour, "GIF")
    file.create_dataset("refused/gif", data=numpy.frombuffer(data, numpy.uint8))
    size = 16
    resize = file.create_group("resize")
    resize.attrs["size"] = size
    for height, width in [(16, 16), (16, 37), (33, 16), (100, 61), (31, 47), (5, 9), (7, 3), (64, 64), (17, 16), (1, 2),
                          (1, 40), (33, 1), (9, 90), (70, 8)]:
        group = resize.create_group(f"{height}x{width}")
        image = Image.fromarray(picture(height, width))
        group.create_dataset("input", data=numpy.asarray(image))
        group.create_dataset("output", data=numpy.asarray(resize_crop(image, size)))
        group.create_dataset("stretched", data=numpy.asarray(scaled(image, 11, 24, Image.BILINEAR)))
        group.create_dataset("bicubic", data=numpy.asarray(scaled(image, 11, 24, Image.BICUBIC)))
