"""One whole pruning step on the small UNet of unet.py: METHOD 3, 3a and 4, up to the gradients of the router.

UNet and router both run in float64, so that the file holds the step's true values.
"""

import numpy as np
import torch
from diffusers import UNet2DConditionModel

import fixture
import gates as gating
import macs
import router
import units

B, K, D = 6, 3, 8  # prompts, codes, width of z
LATENT, TOKENS = 8, 5
PAPER = dict(w_distill_out=0.2, w_distill_block=0.2, w_res=2.0, w_cont=100.0)
FOLDER = "unet_sd2"


def cumulative_alphas():
    """SD 2.1's scaled-linear schedule."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, dim=0)


def run_unet(unet, latents, timesteps, text_states):
    """Output and the hidden state that leaves each block, after its down- or upsampler."""
    states, handles = [], []
    for _, block in units.blocks(unet):
        # A down block returns (hidden state, skips), the others the hidden state.
        hook = lambda _, inputs, output: states.append(output[0] if isinstance(output, tuple) else output)  # noqa: E731
        handles.append(block.register_forward_hook(hook))
    output = unet(latents, timesteps, text_states).sample
    for handle in handles:
        handle.remove()
    return output, states


def mean_square(a, b):
    return ((a - b) ** 2).mean()


def diffusion_loss(output, z0, eps, abar):
    """v-prediction with min-SNR weights: mean per sample, then over samples."""
    target = abar.sqrt() * eps - (1 - abar).sqrt() * z0
    snr = (abar / (1 - abar)).flatten()
    weight = torch.clamp(snr + 1, max=5) / (snr + 1)
    return (weight * ((output - target) ** 2).mean(dim=(1, 2, 3))).mean()


def step(unet, table, count, x, phase, normal_form, p, w):
    """x: inputs/ as tensors, router parameters as leaves; w: weights of the losses.

    Returns outputs, intermediate values and gradients.
    """
    layout = table.layout()
    abar = cumulative_alphas()[x["timesteps"]][:, None, None, None]
    noisy = abar.sqrt() * x["latent_z0"] + (1 - abar).sqrt() * x["eps"]
    with torch.no_grad():
        teacher, teacher_states = run_unet(unet, noisy, x["timesteps"], x["text_states"])

    # Routing. No gradient flows through the choice.
    predicted = router.gumbel(x["z"] @ x["predictor_weight"].T + x["predictor_bias"], x["gumbel_pred"], layout)
    codes = router.gumbel(x["codes"], x["gumbel_code"], layout)
    architecture = router.normal_form(predicted, layout, normal_form)
    similarity = (architecture @ router.normal_form(codes, layout, normal_form).T).detach()
    plan, expert = router.transport(similarity)

    gates = predicted if phase == "warmup" else codes[expert]
    with gating.gated(table, gating.from_vector(gates, table)):
        output, states = run_unet(unet, noisy, x["timesteps"], x["text_states"])

    ratio = router.mac_ratio(gates, layout, torch.tensor(count.width).double(), torch.tensor(count.depth).double())
    loss = dict(
        ddpm=diffusion_loss(output, x["latent_z0"], x["eps"], abar),
        distill_out=mean_square(output, teacher),
        distill_block=torch.stack([mean_square(a, b) for a, b in zip(states, teacher_states)]).mean(),
        resource=router.resource(ratio, router.budget_target(p, count.total, count.prunable), "log"),
        contrastive=router.contrastive(x["z"], architecture),
    )
    loss["total"] = (
        loss["ddpm"]
        + w["w_distill_out"] * loss["distill_out"]
        + w["w_distill_block"] * loss["distill_block"]
        + w["w_res"] * loss["resource"]
        + w["w_cont"] * loss["contrastive"]
    )
    check_margins(gates, predicted, codes, plan)

    parameters = {k: x[k] for k in ("predictor_weight", "predictor_bias", "codes")}
    found = torch.autograd.grad(loss["total"], [gates, *parameters.values()], allow_unused=True)
    gradients = {k: torch.zeros_like(v) if g is None else g for (k, v), g in zip(parameters.items(), found[1:])}
    outputs = dict(student_output=output, gates=gates, similarity=similarity, plan=plan, expert=expert, ratio=ratio)
    outputs.update({f"loss/{k}": v for k, v in loss.items()})
    intermediate = dict(teacher_output=teacher, predicted_gates=predicted, code_gates=codes, gates_gradient=found[0])
    return outputs, intermediate, gradients


def check_margins(gates, predicted, codes, plan):
    """Decisions that rounding could turn would test nothing."""
    for v in (gates, predicted, codes):
        assert (v - 0.5).abs().min() > 1e-12
    top = plan.sort(dim=1, descending=True).values
    assert (top[:, 0] - top[:, 1]).min() > 1e-4


def inputs_for(name, layout, cross_attention_dim, channels):
    """About as many gates closed as open, so that every branch of the step is taken."""
    rng = fixture.generator(name)
    depth = slice(layout.n_width, layout.n)
    weight = rng.standard_normal((layout.n, D)) * 1.5 / D**0.5
    bias = rng.standard_normal(layout.n) - 3
    codes = rng.standard_normal((K, layout.n)) * 1.5 - 3
    weight[depth] *= 5  # a sharp softmax, else all depth gates stay open
    codes[:, depth] *= 5
    z = rng.standard_normal(D) + 0.5 * rng.standard_normal((B, D))  # prompts alike, else their softmax is the identity
    x = dict(
        z=z,
        predictor_weight=weight,
        predictor_bias=bias,
        codes=codes,
        gumbel_pred=rng.gumbel(size=(B, layout.n)),
        gumbel_code=rng.gumbel(size=(K, layout.n)),
        timesteps=np.array([3, 999, 500, 120, 40, 731]),
    )
    for key, shape in dict(latent_z0=(B, channels, LATENT, LATENT), eps=(B, channels, LATENT, LATENT),
                           text_states=(B, TOKENS, cross_attention_dim)).items():
        x[key] = np.float32(rng.standard_normal(shape))
    return x


def write_step(name, unet, phase, normal_form="mixed", p=0.6, weights=PAPER):
    table = units.table(unet)
    count = macs.count(unet, LATENT, LATENT, TOKENS)
    stored = inputs_for(name, table.layout(), unet.config.cross_attention_dim, unet.config.in_channels)
    x = {k: torch.tensor(v) for k, v in stored.items()}
    for key in ("latent_z0", "eps", "text_states"):
        x[key] = x[key].double()
    for key in ("predictor_weight", "predictor_bias", "codes"):
        x[key].requires_grad_()
    outputs, intermediate, gradients = step(unet, table, count, x, phase, normal_form, p, weights)

    attributes = dict(folder=FOLDER, phase=phase, normal_form=normal_form, p=p, tau=router.TAU, gamma=router.GAMMA,
                      b=router.OFFSET, ff_entries=32, **weights)
    outputs["student_output"] = outputs["student_output"].float()
    intermediate["teacher_output"] = intermediate["teacher_output"].float()
    fixture.write(name, "prune_step", attributes, inputs=stored, outputs=outputs, intermediate=intermediate,
                  gradients=gradients)
    print(f"    experts {outputs['expert'].tolist()}, ratios {[round(r, 3) for r in outputs['ratio'].tolist()]}, "
          + ", ".join(f"{k[5:]} {v:.4f}" for k, v in outputs.items() if k.startswith("loss/")))
    closed = (outputs["gates"] < 0.5).double().split([table.layout().n_width, table.layout().n_depth], dim=1)
    print(f"    {table.layout().n} entries; closed: {closed[0].mean():.2f} of width, {closed[1].mean():.2f} of depth; "
          "largest gradient: " + ", ".join(f"{k} {v.abs().max():.2e}" for k, v in gradients.items()))
    return outputs, gradients


def main():
    unet = UNet2DConditionModel.from_pretrained(fixture.FOLDER / FOLDER, low_cpu_mem_usage=False)
    unet.double().eval().requires_grad_(False)
    _, gradients = write_step("prune_step_warmup", unet, "warmup")
    assert gradients["codes"].abs().max() == 0
    outputs, gradients = write_step("prune_step_main", unet, "main")
    assert len(set(outputs["expert"].tolist())) > 1 and all(g.abs().max() > 0 for g in gradients.values())
    # Other weights: with the paper's, L_cont's gradient hides the rest, and equal weights could be swapped unseen.
    weights = dict(w_distill_out=0.5, w_distill_block=0.1, w_res=1.5, w_cont=0.25)
    write_step("prune_step_main_hard", unet, "main", normal_form="hard", p=0.3, weights=weights)
    write_step("prune_step_warmup_soft", unet, "warmup", normal_form="soft", p=0.5, weights=weights)


if __name__ == "__main__":
    main()
