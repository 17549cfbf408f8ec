"""Published models in small: folders as diffusers and transformers write them, with random weights, made with numpy alone.

    write_pipeline(folder, unet)   model_index.json, unet, scheduler, vae, text_encoder, tokenizer
    write_safetensors(path, tensors, "F16"); write_sharded(folder, stem, tensors, parts); read_safetensors(path)
"""
import json
import math
import pathlib
import shutil

import numpy

TYPES = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "I64": "<i8"}
FIXTURES = pathlib.Path(__file__).resolve().parents[1] / "fixtures"

SCHEDULER = {  # Stable Diffusion 1.5's
    "_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "beta_start": 0.00085, "num_train_timesteps": 1000, "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1,
    "trained_betas": None, "clip_sample": False,
}
VAE = {"_class_name": "AutoencoderKL", "latent_channels": 4, "block_out_channels": [8, 8, 16, 16], "scaling_factor": 0.18215}
INDEX = {
    "_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.6.0",
    "feature_extractor": ["transformers", "CLIPImageProcessor"], "safety_checker": [None, None],
    "scheduler": ["diffusers", "PNDMScheduler"], "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"], "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def read_safetensors(path):
    """As the format's description says: the header's length, the header, the arrays one behind the other."""
    data = pathlib.Path(path).read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    assert header.pop("__metadata__") == {"format": "pt"}
    arrays, covered = {}, 0
    for name, tensor in header.items():
        first, last = tensor["data_offsets"]
        assert first == covered, f"{path}: {name} begins at {first}, the one before ends at {covered}"
        covered, dtype = last, numpy.dtype(TYPES[tensor["dtype"]])
        assert last - first == math.prod(tensor["shape"]) * dtype.itemsize, f"{path}: {name} has {last - first} bytes"
        arrays[name] = numpy.frombuffer(data[end + first:end + last], dtype).reshape(tensor["shape"])
    assert end + covered == len(data), f"{path}: {len(data)} bytes, {end + covered} are told"
    return arrays


def encode(values, dtype):
    """Type and bytes of an array; numpy has no bfloat16: the upper halves of values that must be exact in it."""
    if dtype == "BF16" and values.dtype.kind == "f":
        return dtype, (numpy.ascontiguousarray(values, "<f4").view("<u4") >> 16).astype("<u2").tobytes()
    if values.dtype.kind == "i":
        dtype = "I64"
    return dtype, values.astype(TYPES[dtype]).tobytes()


def bfloat16(values):
    """Values that are exact in bfloat16: the lower halves cut off."""
    return (numpy.ascontiguousarray(values, "<f4").view("<u4") & 0xffff0000).view("<f4")


def write_safetensors(path, tensors, dtype="F32"):
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, values in tensors.items():
        kind, encoded = encode(values, dtype)
        header[name] = {"dtype": kind, "shape": list(values.shape), "data_offsets": [len(data), len(data) + len(encoded)]}
        data += encoded
    text = json.dumps(header).encode()
    pathlib.Path(path).write_bytes(len(text).to_bytes(8, "little") + text + data)


def write_sharded(folder, stem, tensors, parts, dtype="F32"):
    """The same in parts, tensors dealt to them in turn, with the index."""
    names = [f"{stem}-{part + 1:05}-of-{parts:05}.safetensors" for part in range(parts)]
    place = {name: names[i % parts] for i, name in enumerate(tensors)}
    for part in names:
        write_safetensors(folder / part, {name: values for name, values in tensors.items() if place[name] == part}, dtype)
    size = sum(values.size for values in tensors.values())
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": place}))


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")


def write_pipeline(folder, unet="unet_sd1"):
    """A pipeline whose UNet is that fixture, with a VAE and a text encoder that have a few tensors only: what import must know
    of them is in their configurations."""
    folder = pathlib.Path(folder)
    random = numpy.random.default_rng(3)

    def tensor(*shape):
        return random.standard_normal(shape).astype("<f4")

    shutil.copytree(FIXTURES / unet, folder / "unet")
    width = json.loads((folder / "unet/config.json").read_text())["cross_attention_dim"]
    write_json(folder / "model_index.json", INDEX)
    write_json(folder / "scheduler/scheduler_config.json", SCHEDULER)
    write_json(folder / "vae/config.json", VAE)
    write_json(folder / "text_encoder/config.json", {"model_type": "clip_text_model", "hidden_size": width,
                                                     "max_position_embeddings": 12})
    write_json(folder / "tokenizer/vocab.json", {"a</w>": 0, "b</w>": 1})
    (folder / "tokenizer/merges.txt").write_text("#version: 0.2\na b</w>\n")
    write_safetensors(folder / "vae/diffusion_pytorch_model.safetensors",
                      {"quant_conv.weight": tensor(8, 8, 1, 1), "decoder.conv_in.bias": tensor(16)})
    write_safetensors(folder / "text_encoder/model.safetensors",
                      {"text_model.final_layer_norm.weight": tensor(width), "text_model.embeddings.token_embedding.weight": tensor(5, width),
                       "text_model.embeddings.position_ids": numpy.arange(12).reshape(1, 12)})
