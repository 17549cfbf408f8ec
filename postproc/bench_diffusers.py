"""The work of phase bench in PyTorch and diffusers, in their best eager form on CPUs (channels_last; bf16 where it is native).

    python postproc/bench_diffusers.py --config input/sd21/unet.json --precision bf16 --latents 32 --tokens 77 --batches 1 2 4 \
        --prune-batch 2 --repeats 3 --threads 2 OUT.json

A forward pass is that of the UNet without gradients. A pruning step is the teacher's forward pass, the student's with gates
(hooks, as in test/reference/gates.py) and the gradient of the gates; no weight wants a gradient. Times in seconds, memory (peak
resident size of the process, weights included) in bytes.
"""

import argparse
import contextlib
import json
import resource
import statistics
import sys
import time
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

sys.path.insert(0, str(Path(__file__).parent.parent / "test" / "reference"))
import gates as gating  # noqa: E402
import units  # noqa: E402


def make_unet(config, dtype):
    """Random weights, made in their final precision: an fp32 copy would be the peak of memory."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(config))
    torch.set_default_dtype(before)
    return unet.to(dtype=dtype, memory_format=torch.channels_last).eval().requires_grad_(False)


def make_inputs(unet, batch, latents, tokens, dtype):
    channels, width = unet.config.in_channels, unet.config.cross_attention_dim
    sample = torch.randn(batch, channels, latents, latents).to(dtype=dtype, memory_format=torch.channels_last)
    text = torch.randn(batch, tokens, width).to(dtype)
    return sample, torch.full((batch,), 500), text


def blocks_of(unet):
    return [*unet.down_blocks, unet.mid_block, *unet.up_blocks]


@contextlib.contextmanager
def hidden_states(unet, states):
    """Inside, each forward pass appends the state that leaves every block."""

    def hook(_, __, output):
        states.append(output[0] if isinstance(output, tuple) else output)

    handles = [block.register_forward_hook(hook) for block in blocks_of(unet)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def forward(unet, sample, timesteps, text):
    with torch.no_grad():
        return unet(sample, timesteps, text).sample


def prune_step(unet, table, sample, timesteps, text, target, values):
    """Returns the gradient of values [B, n], the gates."""
    mse = torch.nn.functional.mse_loss
    teacher_states, states = [], []
    with hidden_states(unet, teacher_states):
        teacher = forward(unet, sample, timesteps, text)
    values = values.clone().requires_grad_()
    with hidden_states(unet, states), gating.gated(table, gating.from_vector(values.to(sample.dtype), table)):
        output = unet(sample, timesteps, text).sample
    blocks = sum(mse(a, b) for a, b in zip(states, teacher_states)) / len(states)
    loss = mse(output, target) + 0.2 * mse(output, teacher) + 0.2 * blocks
    loss.backward()
    return values.grad


def reset_peak():
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak resident set size


def measure(work, repeats):
    """One run to warm up, then the median and the shortest of `repeats`."""
    reset_peak()
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return dict(time=statistics.median(times), time_least=min(times), peak_resident=peak)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", required=True)
    parser.add_argument("--precision", choices=["fp32", "bf16"], required=True)
    parser.add_argument("--latents", type=int, required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--batches", type=int, nargs="+", required=True)
    parser.add_argument("--prune-batch", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("out")
    args = parser.parse_args()

    torch.manual_seed(1)
    torch.set_num_threads(args.threads)
    dtype = dict(fp32=torch.float32, bf16=torch.bfloat16)[args.precision]
    unet = make_unet(args.config, dtype)
    result = dict(torch=torch.__version__, forward=[])
    for batch in args.batches:
        inputs = make_inputs(unet, batch, args.latents, args.tokens, dtype)
        result["forward"].append(measure(lambda: forward(unet, *inputs), args.repeats))
    if args.prune_batch:
        inputs = make_inputs(unet, args.prune_batch, args.latents, args.tokens, dtype)
        table = units.table(unet)
        values = torch.full((args.prune_batch, sum(u.width for u in table.widths) + len(table.depths)), 0.75)
        target = torch.randn_like(inputs[0])
        result["prune_step"] = measure(lambda: prune_step(unet, table, *inputs, target, values), args.repeats)
    Path(args.out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
