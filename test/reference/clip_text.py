"""Stable Diffusion's text encoders: transformers' CLIPTokenizer with the published vocabulary and a small one, tiny random models.

The published vocabulary comes inside the wheel open_clip_torch and is not kept beside the fixtures; their attribute `folder` names
the place, clip_tokenizer beside them, where a link to build/venv/clip_tokenizer is expected.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import fixture
from clip import randomise
from prompts import all_prompts

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "postproc"))
import clip_tokenizer  # noqa: E402

SMALL = "sd2_text_small"
SMALL_MERGES, SMALL_LENGTH = 150, 20


# ---- tokenizers


def tokenize(folder, texts):
    """ids [N, T] as diffusers' pipelines ask for them; length [N]: ids before the padding."""
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    batch = tokenizer(texts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="np")
    return batch["input_ids"].astype(np.int64), batch["attention_mask"].sum(axis=1).astype(np.int64)


def write_ids(name, folder_name, folder, texts):
    ids, length = tokenize(folder, texts)
    fixture.write(name, "clip_bpe", dict(folder=folder_name), inputs=dict(text=texts), outputs=dict(input_ids=ids, length=length))


def write_tokenizers(texts):
    merges = clip_tokenizer.published_merges()
    with tempfile.TemporaryDirectory() as scratch:
        for name, padding in clip_tokenizer.PADDING.items():
            folder = Path(scratch, name)
            clip_tokenizer.write_folder(folder, merges, padding)
            write_ids(f"clip_bpe_{name}", f"clip_tokenizer/{name}", folder, texts)
    # The first merges make a vocabulary by themselves: each joins what those before it made.
    folder = fixture.FOLDER / SMALL / "tokenizer"
    clip_tokenizer.write_folder(folder, merges[:SMALL_MERGES], "!", SMALL_LENGTH)
    write_ids("clip_bpe_small", f"{SMALL}/tokenizer", folder, texts)
    # The same as transformers 5 saves it: everything in tokenizer.json.
    CLIPTokenizer.from_pretrained(folder).save_pretrained(fixture.FOLDER / SMALL / "tokenizer_saved")


# ---- models


def write_model(name, rows, projected, **config):
    """States, with a projection text_embeds; loss and gradients of every weight."""
    kind = CLIPTextModelWithProjection if projected else CLIPTextModel
    model = randomise(kind(CLIPTextConfig(**config)), name)
    model.save_pretrained(fixture.FOLDER / name)
    ids = torch.tensor(rows)
    rng = fixture.generator(name)
    with torch.no_grad():
        single = model(input_ids=ids).last_hidden_state
    model.double()
    out = model(input_ids=ids)
    outputs = dict(last_hidden_state=out.last_hidden_state)
    if projected:
        outputs["text_embeds"] = out.text_embeds
    last = out.text_embeds if projected else out.last_hidden_state
    target = torch.tensor(rng.standard_normal(tuple(last.shape)), dtype=torch.float32)
    outputs["loss"] = ((last - target.double()) ** 2).mean()
    outputs["loss"].backward()
    gradients = {key: weight.grad for key, weight in model.named_parameters()}
    if not projected:  # named as versions before 5 did
        gradients = {f"text_model.{key}": gradient for key, gradient in gradients.items()}
    assert all(gradient.abs().max() > 0 for key, gradient in gradients.items() if "k_proj.bias" not in key)
    fixture.write(name, "clip_text", dict(folder=name), inputs=dict(input_ids=ids, target=target),
                  outputs=fixture.single(outputs), gradients=fixture.single(gradients))
    error = (single - out.last_hidden_state).abs().max() / out.last_hidden_state.abs().max()
    print(f"    PyTorch fp32: last_hidden_state {error:.1e}")


def write_models():
    rng = fixture.generator("clip_text_rows")
    rows = rng.integers(1, 50, (4, 9))
    rows[:, 0] = 50
    sizes = dict(vocab_size=53, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3,
                 max_position_embeddings=11)
    write_model("clip_text_quick", rows, False, hidden_act="quick_gelu", **sizes)
    # The first end token, token 0 where there is none; ids above it do not matter.
    rows[0, 5:] = 51
    rows[1, 3], rows[1, 6] = 52, 51
    rows[2, 8] = 51
    write_model("clip_text_projection", rows, True, hidden_act="gelu", eos_token_id=51, projection_dim=10, layer_norm_eps=1e-3, **sizes)
    # The first token of the highest id, whatever it is.
    write_model("clip_text_legacy", rows, True, hidden_act="quick_gelu", eos_token_id=2, projection_dim=30, **sizes)


# ---- both together


def write_published_weights(folder):
    """The names that versions before 5 wrote: a prefix, and a buffer."""
    weights = {f"text_model.{key}": value for key, value in load_file(folder / "model.safetensors").items()}
    positions = weights["text_model.embeddings.position_embedding.weight"].shape[0]
    weights["text_model.embeddings.position_ids"] = torch.arange(positions)[None]
    save_file(weights, folder / "model.safetensors", metadata=dict(format="pt"))


def write_encoder(texts):
    folder = fixture.FOLDER / SMALL
    vocabulary = len(json.loads((folder / "tokenizer" / "vocab.json").read_text()))
    config = CLIPTextConfig(vocab_size=vocabulary, hidden_size=20, intermediate_size=36, num_hidden_layers=2, num_attention_heads=2,
                            max_position_embeddings=SMALL_LENGTH, hidden_act="gelu", eos_token_id=2)
    model = randomise(CLIPTextModel(config), SMALL)
    model.save_pretrained(folder / "text_encoder")
    write_published_weights(folder / "text_encoder")
    again = CLIPTextModel.from_pretrained(folder / "text_encoder").double().eval()
    ids, length = tokenize(folder / "tokenizer", texts)
    with torch.no_grad():
        hidden = again(input_ids=torch.tensor(ids)).last_hidden_state
    fixture.write("text_encoder_small", "text_encoder", dict(folder=SMALL), inputs=dict(text=texts),
                  outputs=dict(input_ids=ids, length=length, **fixture.single(dict(last_hidden_state=hidden))))


def main():
    texts = all_prompts()
    write_tokenizers(texts)
    write_models()
    write_encoder(texts[:24] + texts[200:224])


if __name__ == "__main__":
    main()
