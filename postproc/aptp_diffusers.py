"""Experts that `aptp` has exported, in diffusers.

    from aptp_diffusers import RoutedPipeline, SentenceEncoder, SlicedUNet2DConditionModel

    unet = SlicedUNet2DConditionModel.from_pretrained("run/export/expert_03")
    pipeline = StableDiffusionPipeline.from_pretrained("stable-diffusion-2-1", unet=unet)

    routed = RoutedPipeline.from_export("run/export", pipeline, SentenceEncoder("all-mpnet-base-v2"))
    images = routed(["a red square", "a crowd at night"], num_inference_steps=25)

An expert is a UNet2DConditionModel with smaller modules and with the same names of weights; save_pretrained and from_pretrained work
on it as on any other. A whole pipeline that holds one is saved by save_pretrained, too, and comes back by
StableDiffusionPipeline.from_pretrained where this module can be imported (this folder in PYTHONPATH, or the file beside the
script): model_index.json names it and its class.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline, ModelMixin, UNet2DConditionModel  # noqa: F401 (pipelines look for ModelMixin here)
from torch import nn

from aptp_router import Router

PREDICTION = {"v": "v_prediction", "epsilon": "epsilon"}  # names of aptp and of diffusers' schedulers


# ---- modules that are smaller, and what stands where a unit was dropped


class DroppedResnet(nn.Module):
    """Hands on its input; in an up block without the skip, which is concatenated behind it."""

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels

    def forward(self, hidden: torch.Tensor, *_) -> torch.Tensor:
        return hidden[:, : self.channels]


class DroppedTransformer(nn.Module):
    def forward(self, hidden: torch.Tensor, *_, **__) -> tuple[torch.Tensor]:
        return (hidden,)


def linear(like: nn.Linear, inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=like.bias is not None)


def slice_resnet(resnet: nn.Module, unit: dict) -> None:
    channels, conv1, conv2 = unit["channels"], resnet.conv1, resnet.conv2
    resnet.conv1 = nn.Conv2d(conv1.in_channels, channels, conv1.kernel_size, conv1.stride, conv1.padding)
    resnet.time_emb_proj = linear(resnet.time_emb_proj, resnet.time_emb_proj.in_features, channels)
    resnet.norm2 = nn.GroupNorm(unit["groups"], channels, resnet.norm2.eps)
    resnet.conv2 = nn.Conv2d(channels, conv2.out_channels, conv2.kernel_size, conv2.stride, conv2.padding)


def slice_attention(attention: nn.Module, unit: dict) -> None:
    inner = unit["heads"] * (attention.to_q.out_features // attention.heads)
    for name in ("to_q", "to_k", "to_v"):
        layer = getattr(attention, name)
        setattr(attention, name, linear(layer, layer.in_features, inner))
    attention.to_out[0] = linear(attention.to_out[0], inner, attention.to_out[0].out_features)
    attention.heads = unit["heads"]
    attention.inner_dim = attention.inner_kv_dim = inner


def slice_feed_forward(feed_forward: nn.Module, unit: dict) -> None:
    geglu, out = feed_forward.net[0], feed_forward.net[2]
    geglu.proj = linear(geglu.proj, geglu.proj.in_features, 2 * unit["inner"])
    feed_forward.net[2] = linear(out, unit["inner"], out.out_features)


SLICE = {"resnet": slice_resnet, "self_attention": slice_attention, "cross_attention": slice_attention, "feed_forward": slice_feed_forward}


def slice_unet(unet: nn.Module, aptp: dict) -> None:
    """Gives every module the sizes that aptp.json tells. The new weights are random."""
    if aptp["format"] != "aptp-expert" or aptp["format_version"] != 1:
        raise ValueError(f"format {aptp['format']} {aptp['format_version']}, aptp-expert 1 is supported")
    for unit in aptp["units"]:
        SLICE[unit["kind"]](unet.get_submodule(unit["path"]), unit)
    for path in aptp["dropped"]:
        parent, _, name = path.rpartition(".")
        dropped = DroppedResnet(unet.get_submodule(path).out_channels) if ".resnets." in path else DroppedTransformer()
        setattr(unet.get_submodule(parent), name, dropped)


# ---- the expert


class SlicedUNet2DConditionModel(UNet2DConditionModel):
    """An expert. config.aptp is its aptp.json: what each unit keeps, teacher, prediction, latents, encoders."""

    def __init__(self, aptp: dict, **unet):
        super().__init__(**unet)
        self.register_to_config(aptp=aptp)
        slice_unet(self, aptp)

    @staticmethod
    def _get_init_keys(input_class: type) -> set[str]:
        """Names that a configuration may have: diffusers reads a signature, which of ours says little."""
        return UNet2DConditionModel._get_init_keys(UNet2DConditionModel) | {"aptp"}

    @classmethod
    def load_config(cls, pretrained_model_name_or_path, **options):
        """As exported, the description lies beside config.json; save_pretrained puts it in."""
        result = super().load_config(pretrained_model_name_or_path, **options)
        config = result[0] if isinstance(result, tuple) else result
        description = Path(pretrained_model_name_or_path, options.get("subfolder") or "", "aptp.json")
        if "aptp" not in config and description.is_file():
            config["aptp"] = json.loads(description.read_text())
        return result


# ---- the router


class SentenceEncoder:
    """A sentence-transformers folder by transformers: the mean of the token states, not normalised."""

    def __init__(self, folder: str | Path, max_tokens: int | None = None, batch: int = 64):
        """max_tokens: data.max_tokens of the run, where that is less than what the folder says."""
        from transformers import AutoModel, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder).eval()
        settings = Path(folder, "sentence_bert_config.json")
        most = json.loads(settings.read_text())["max_seq_length"] if settings.is_file() else self.tokenizer.model_max_length
        self.max_tokens, self.batch = min(most, max_tokens or most), batch

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        means = []
        for first in range(0, len(texts), self.batch):
            inputs = self.tokenizer(list(texts[first : first + self.batch]), padding=True, truncation=True,
                                    max_length=self.max_tokens, return_tensors="pt").to(self.model.device)
            states, mask = self.model(**inputs).last_hidden_state, inputs["attention_mask"][..., None]
            means.append((states * mask).sum(1) / mask.sum(1))
        return torch.cat(means).double().cpu().numpy()


class RoutedPipeline:
    """A text-to-image pipeline whose UNet is, for each prompt, the expert that the router picks."""

    def __init__(self, pipeline: DiffusionPipeline, router: Router, experts: Sequence[SlicedUNet2DConditionModel],
                 encode: Callable[[Sequence[str]], np.ndarray]):
        """encode: prompts -> z [prompts, embedding_width], by the run's sentence encoder."""
        if len(experts) != router.settings["experts"]:
            raise ValueError(f"{len(experts)} experts, the router has {router.settings['experts']}")
        scheduled = pipeline.scheduler.config.prediction_type
        for expert in experts:
            description = expert.config.aptp
            if description["router"] != router.settings["content_id"]:
                raise ValueError(f"expert {description['expert']} belongs to another router")
            if PREDICTION[description["prediction"]] != scheduled:
                raise ValueError(f"expert {description['expert']} predicts {description['prediction']}, the scheduler wants {scheduled}")
        self.pipeline, self.router, self.experts, self.encode = pipeline, router, list(experts), encode

    @classmethod
    def from_export(cls, folder: str | Path, pipeline: DiffusionPipeline, encode: Callable[[Sequence[str]], np.ndarray],
                    **options) -> "RoutedPipeline":
        """options: of from_pretrained, as torch_dtype."""
        router = Router.from_folder(Path(folder, "router"))
        experts = [SlicedUNet2DConditionModel.from_pretrained(Path(folder, f"expert_{k:02d}"), **options)
                   for k in range(router.settings["experts"])]
        return cls(pipeline, router, experts, encode)

    def to(self, device: str | torch.device) -> "RoutedPipeline":
        self.pipeline.to(device)
        for expert in self.experts:
            expert.to(device)
        return self

    def __call__(self, prompt: str | Sequence[str], **options) -> list:
        """The images of each prompt in order, num_images_per_prompt of each. A list given as negative_prompt or generator has one
        item a prompt."""
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        count = options.get("num_images_per_prompt", 1)
        chosen = self.router.experts_of(self.encode(prompts))
        images: list = [None] * (len(prompts) * count)
        for k in sorted(set(chosen)):
            rows = [i for i, expert in enumerate(chosen) if expert == k]
            own = {name: [options[name][i] for i in rows] for name in ("negative_prompt", "generator") if isinstance(options.get(name), list)}
            self.pipeline.register_modules(unet=self.experts[k])
            made = self.pipeline([prompts[i] for i in rows], **{**options, **own}).images
            for place, i in enumerate(rows):
                images[i * count : (i + 1) * count] = made[place * count : (place + 1) * count]
        return images
