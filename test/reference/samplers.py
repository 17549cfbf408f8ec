"""Samplers: diffusers' scheduler classes stepping through given model outputs.

Each is made from SD 2.1's published scheduler configuration; a random number stands in for what a UNet would say.
"""

import torch
from diffusers import PNDMScheduler

import fixture

SD21 = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000, skip_prk_steps=True,
            set_alpha_to_one=False, steps_offset=1, timestep_spacing="leading")
SHAPE = (2, 4, 3, 5)


def write_pndm(name, steps, prediction_type):
    scheduler = PNDMScheduler(**SD21, prediction_type=prediction_type)
    scheduler.alphas_cumprod = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, dim=0)
    scheduler.final_alpha_cumprod = scheduler.alphas_cumprod[0]  # set_alpha_to_one false
    scheduler.set_timesteps(steps)
    rng = fixture.generator(name)
    sample = torch.tensor(rng.standard_normal(SHAPE)).float()
    outputs = torch.tensor(rng.standard_normal((len(scheduler.timesteps), *SHAPE))).float()
    inputs = dict(sample=sample, model_output=outputs)
    samples = []
    sample = sample.double()
    for timestep, output in zip(scheduler.timesteps, outputs.double()):
        sample = scheduler.step(output, timestep, sample).prev_sample
        samples.append(sample)
    fixture.write(name, "pndm", dict(prediction_type=prediction_type, steps=steps), inputs=inputs,
                  outputs=dict(timesteps=scheduler.timesteps, samples=torch.stack(samples).float()))
    print(f"    timesteps {scheduler.timesteps[:5].tolist()} ... {scheduler.timesteps[-1]}")


def main():
    write_pndm("pndm", 25, "v_prediction")
    write_pndm("pndm_epsilon", 7, "epsilon")
    write_pndm("pndm_two", 2, "v_prediction")
    write_pndm("pndm_one", 1, "v_prediction")


if __name__ == "__main__":
    main()
