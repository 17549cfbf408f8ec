"""Samplers: diffusers' scheduler classes stepping through given model outputs.

Each is made from SD 2.1's published scheduler configuration; a random number stands in for what a UNet would say.
"""

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, PNDMScheduler

import fixture

SD21 = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000, skip_prk_steps=True,
            set_alpha_to_one=False, steps_offset=1, timestep_spacing="leading", clip_sample=False)
SCHEDULERS = dict(pndm=PNDMScheduler, ddim=DDIMScheduler, dpmpp=DPMSolverMultistepScheduler)
# What a class must have made of SD21 and of its own defaults.
EXPECTED = dict(
    pndm=dict(skip_prk_steps=True, set_alpha_to_one=False),
    ddim=dict(set_alpha_to_one=False, clip_sample=False, thresholding=False, rescale_betas_zero_snr=False),
    dpmpp=dict(algorithm_type="dpmsolver++", solver_order=2, solver_type="midpoint", lower_order_final=True,
               euler_at_final=False, final_sigmas_type="zero", thresholding=False, use_karras_sigmas=False),
)
SHAPE = (2, 4, 3, 5)
SMALL = (2, 3, 1, 2)


def make_scheduler(model, steps, prediction_type):
    """The class of that name with its noise levels in float64; diffusers has them in fp32."""
    scheduler = SCHEDULERS[model].from_config(PNDMScheduler.from_config(dict(SD21, prediction_type=prediction_type)).config)
    expected = dict(EXPECTED[model], timestep_spacing="leading", steps_offset=1, prediction_type=prediction_type)
    assert {key: scheduler.config[key] for key in expected} == expected
    scheduler.alphas_cumprod = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, dim=0)
    scheduler.final_alpha_cumprod = scheduler.alphas_cumprod[0]  # set_alpha_to_one false
    scheduler.set_timesteps(steps)
    if model == "dpmpp":
        alpha_bar = scheduler.alphas_cumprod[scheduler.timesteps]
        sigmas = torch.cat([((1 - alpha_bar) / alpha_bar) ** 0.5, torch.zeros(1, dtype=torch.float64)])
        assert torch.equal(sigmas.float(), scheduler.sigmas)
        scheduler.sigmas = sigmas
    return scheduler


def write_sampler(model, suffix, steps, prediction_type, shape):
    name = model + suffix
    scheduler = make_scheduler(model, steps, prediction_type)
    rng = fixture.generator(name)
    sample = torch.tensor(rng.standard_normal(shape)).float()
    outputs = torch.tensor(rng.standard_normal((len(scheduler.timesteps), *shape))).float()
    inputs = dict(sample=sample, model_output=outputs)
    samples = []
    sample = sample.double()
    for timestep, output in zip(scheduler.timesteps, outputs.double()):
        sample = scheduler.step(output, timestep, sample).prev_sample
        samples.append(sample)
    fixture.write(name, model, dict(prediction_type=prediction_type, steps=steps), inputs=inputs,
                  outputs=dict(timesteps=scheduler.timesteps, samples=torch.stack(samples).float()))
    print(f"    timesteps {scheduler.timesteps[:5].tolist()} ... {scheduler.timesteps[-1]}")


def main():
    for model in SCHEDULERS:
        shape = SHAPE if model == "pndm" else SMALL
        write_sampler(model, "", 25, "v_prediction", shape)
        write_sampler(model, "_epsilon", 7, "epsilon", shape)
        write_sampler(model, "_two", 2, "v_prediction", shape)
        write_sampler(model, "_one", 1, "v_prediction", shape)


if __name__ == "__main__":
    main()
