"""Published models in small: folders as diffusers and transformers write them, with random weights.

    PreparedTrial(program, folder): a chain on that pipeline; a trial of tests begins with it
    write_pipeline(folder)   model_index.json, unet, scheduler, vae, text_encoder, tokenizer
    write_safetensors(path, tensors, "F16"); write_sharded(folder, stem, tensors, parts); read_safetensors(path)
"""
import json
import math
import pathlib
import shutil

import numpy
from chain import Chain, Checks, differences

TYPES = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "I64": "<i8"}
FIXTURES = pathlib.Path(__file__).resolve().parents[1] / "fixtures"


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


def write_pipeline(folder):
    """A whole Stable Diffusion in small (test/reference/pipeline.py); its token states are 12 x 18."""
    shutil.copytree(FIXTURES / "pipeline_small", folder)


def text_of(file, name):
    return file[name][0].decode()


PIPELINE = {"data.pipeline": "model"}
PREPARE = {**PIPELINE, "data.latent": "vae", "data.image_size": 64}
STORED, COMPUTED = {**PREPARE, "files.data": "stored.h5"}, {**PREPARE, "files.data": "computed.h5", "data.text_states": "computed"}


class PreparedTrial:
    """A chain whose pictures and captions are encoded by the small pipeline, once with states stored, once with ids; its teacher."""

    def __init__(self, program, folder):
        self.checks, self.chain = Checks(), Chain(program, folder)
        write_pipeline(self.chain.path("model"))
        self.chain.make("prepare", settings=STORED)
        self.chain.make("prepare", settings=COMPUTED)
        self.chain.make("import")

    def same(self, what, a, b):
        found = differences(self.chain.path(a), self.chain.path(b))
        self.checks.that(not found, f"{what}: {found[:3]}")

    def expect(self, what, phase, settings, code, *messages, arguments=()):
        result = self.chain.run(phase, settings=settings, arguments=arguments)
        self.checks.that(result.returncode == code and all(message in result.stdout for message in messages),
                         f"{what}: exit code {result.returncode}, expected {code} and {messages}:\n{result.stdout}")
