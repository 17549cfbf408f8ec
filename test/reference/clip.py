"""CLIP: transformers' image encoder on tiny random models, and the loss by autograd in float64."""

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

import fixture


def randomise(model, name):
    """Weights far from their initial values, so that no bias, norm or table is lost in the others."""
    generator = torch.Generator().manual_seed(int(fixture.generator(name).integers(2**31)))
    with torch.no_grad():
        for key, weight in model.named_parameters():
            norm = "norm" in key and key.endswith("weight")
            small = norm or key.endswith("bias") or "position" in key or "class" in key
            scale = 0.3 if small else 1.5 / weight[0].numel() ** 0.5
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
    write_loss("clip_loss", 6, 5, [0, 1, 2, 3, 4, 5], 1.0)
    write_loss("clip_loss_repeats", 7, 4, [0, 1, 0, 3, 1, 0, 6], 3.0)
    write_loss("clip_loss_one", 1, 3, [0], 2.0)


if __name__ == "__main__":
    main()
