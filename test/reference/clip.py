"""CLIP: transformers' image encoder on tiny random models, and the loss by autograd in float64."""

import json

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel, CLIPTextModelWithProjection, CLIPVisionConfig, CLIPVisionModelWithProjection

import fixture
import resize


def randomise(model, name):
    """Weights far from their initial values, so that no bias, norm or table is lost in the others."""
    generator = torch.Generator().manual_seed(int(fixture.generator(name).integers(2**31)))
    with torch.no_grad():
        for key, weight in model.named_parameters():
            norm = "norm" in key and key.endswith("weight")
            small = norm or key.endswith("bias") or "position" in key or "class" in key
            scale = 0.3 if small else 1.5 / (weight.numel() // (*weight.shape, 1)[0]) ** 0.5
            weight.copy_(torch.randn(weight.shape, generator=generator) * scale + norm)
    return model.eval()


def write_vision(name, samples, **config):
    """image_embeds of random pictures; loss and gradients of every weight and of the pictures."""
    model = randomise(CLIPVisionModelWithProjection(CLIPVisionConfig(**config)), name)
    model.save_pretrained(fixture.FOLDER / name)
    size, channels = model.config.image_size, model.config.num_channels
    rng = fixture.generator(name)
    pixels = torch.tensor(rng.standard_normal((samples, channels, size, size)), dtype=torch.float32)
    target = torch.tensor(rng.standard_normal((samples, model.config.projection_dim)), dtype=torch.float32)
    with torch.no_grad():
        single = model(pixel_values=pixels).image_embeds
    model.double()
    inputs = pixels.double().requires_grad_()
    embeds = model(pixel_values=inputs).image_embeds
    loss = ((embeds - target.double()) ** 2).mean()
    loss.backward()
    gradients = {key: weight.grad for key, weight in model.named_parameters()}
    assert all(gradient.abs().max() > 0 for key, gradient in gradients.items() if "k_proj.bias" not in key)
    fixture.write(name, "clip_vision", dict(folder=name), inputs=dict(pixel_values=pixels, target=target),
                  outputs=fixture.single(dict(image_embeds=embeds, loss=loss)),
                  gradients=fixture.single(dict(gradients, pixel_values=inputs.grad)))
    print(f"    PyTorch fp32: image_embeds {(single - embeds).abs().max() / embeds.abs().max():.1e}")


def make_whole(name, text, vision, projection, **save):
    """The folder of a whole random CLIPModel, as the published ones are: both encoders in one file, with buffers that
    transformers 4 wrote, and a configuration of it."""
    config = CLIPConfig(text_config=dict(text, projection_dim=projection), projection_dim=projection,
                        vision_config=dict(vision, projection_dim=projection))
    folder = fixture.FOLDER / name
    randomise(CLIPModel(config), name).save_pretrained(folder, **save)
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            weights = {key: file.get_tensor(key) for key in file.keys()}
        for encoder, positions in (("text_model", text["max_position_embeddings"]),
                                   ("vision_model", (vision["image_size"] // vision["patch_size"])**2 + 1)):
            if path.name == "model.safetensors":  # an index would have to name them
                weights[f"{encoder}.embeddings.position_ids"] = torch.arange(positions)[None]
        save_file(weights, path, metadata={"format": "pt"})
    values = json.loads((folder / "config.json").read_text())
    values["vision_config_dict"] = dict(vision, projection_dim=projection)
    values["vision_config"].update(bad_words_ids=None, do_sample=False, top_k=50, typical_p=1.0, use_bfloat16=False)
    values.update(text_config_dict=None, transformers_version=None, _name_or_path=name)
    (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n")
    return folder


def write_whole(name, folder, sizes, dtype=torch.float64):
    """Features of pictures of any size, [height, width] each, by a folder that make_whole left."""
    side = CLIPVisionModelWithProjection.from_pretrained(folder).config.image_size
    processor = resize.CLIPImageProcessor(size={"shortest_edge": side + 2}, crop_size={"height": side, "width": side})
    processor.save_pretrained(folder)
    images = [resize.pictures(f"{name} {i}", 1, *size)[0] for i, size in enumerate(sizes)]
    pixels = torch.tensor(resize.preprocess(processor, images))
    model = CLIPVisionModelWithProjection.from_pretrained(folder).eval()
    with torch.no_grad():
        single = model(pixel_values=pixels).image_embeds
        embeds = model.to(dtype)(pixel_values=pixels.to(dtype)).image_embeds
    path = fixture.write(name, "clip_vision", dict(folder=folder.name), inputs=dict(pixel_values=pixels),
                         pictures={str(i): image for i, image in enumerate(images)},
                         outputs=fixture.single(dict(image_embeds=embeds)))
    print(f"    PyTorch fp32: image_embeds {(single - embeds).abs().max() / embeds.abs().max():.1e}")
    return path


def write_whole_text(name, folder, rows, dtype=torch.float64):
    """States and text_embeds of its text encoder."""
    ids = torch.tensor(rows)
    model = CLIPTextModelWithProjection.from_pretrained(folder).eval().to(dtype)
    with torch.no_grad():
        out = model(input_ids=ids)
    return fixture.write(name, "clip_text", dict(folder=folder.name), inputs=dict(input_ids=ids), outputs=fixture.single(
        dict(last_hidden_state=out.last_hidden_state, text_embeds=out.text_embeds)))


def write_loss(name, B, P, group, log_scale):
    """The symmetric cross-entropy with soft targets: rows of one group are right for each other."""
    rng = fixture.generator(name)
    group = np.asarray(group)
    assert len(group) == B and all(group[g] == g <= b for b, g in enumerate(group))
    image = torch.tensor(rng.standard_normal((B, P)) * rng.uniform(0.1, 10, (B, 1)), requires_grad=True)
    text = torch.tensor(rng.standard_normal((B, P)) + 0.2 * image.detach().numpy(), requires_grad=True)
    scale = torch.tensor(log_scale, dtype=torch.float64, requires_grad=True)
    score = scale.exp() * F.normalize(image, dim=1) @ F.normalize(text, dim=1).T
    target = torch.tensor((group[:, None] == group[None, :]).astype(float))
    target = target / target.sum(1, keepdim=True)
    loss = (F.cross_entropy(score, target) + F.cross_entropy(score.T, target)) / 2
    loss.backward()
    fixture.write(name, "clip_loss", inputs=dict(image=image, text=text, group=group, log_scale=scale),
                  outputs=dict(loss=loss), gradients=dict(image=image.grad, text=text.grad, log_scale=scale.grad))


def main():
    # Two pixels at the right and below are not seen.
    write_vision("clip_vision_quick", 3, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3,
                 image_size=14, patch_size=4, projection_dim=10, hidden_act="quick_gelu")
    write_vision("clip_vision_gelu", 2, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
                 image_size=10, patch_size=5, projection_dim=20, hidden_act="gelu", num_channels=2, layer_norm_eps=1e-3)
    folder = make_whole("clip_vision_whole", dict(vocab_size=30, hidden_size=12, intermediate_size=20, num_hidden_layers=1,
                                                  num_attention_heads=2, max_position_embeddings=7, eos_token_id=29),
                        dict(hidden_size=24, intermediate_size=36, num_hidden_layers=2, num_attention_heads=4,
                             image_size=15, patch_size=5, layer_norm_eps=1e-4), 11)
    write_whole("clip_vision_whole", folder, [(20, 31), (9, 8), (17, 17), (40, 4), (1, 3)])
    write_whole_text("clip_text_whole", folder, [[28, 3, 29, 1, 29], [28, 1, 2, 3, 29]])
    write_loss("clip_loss", 6, 5, [0, 1, 2, 3, 4, 5], 1.0)
    write_loss("clip_loss_repeats", 7, 4, [0, 1, 0, 3, 1, 0, 6], 3.0)
    write_loss("clip_loss_one", 1, 3, [0], 2.0)


if __name__ == "__main__":
    main()
