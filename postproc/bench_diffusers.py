"""The work of phase bench in PyTorch and diffusers, in their best form: channels_last, bf16 where it is native; on CPUs eager, on GPUs by
torch.compile in its default mode.

    python postproc/bench_diffusers.py --config input/sd21/unet.json --precision bf16 --latents 32 --tokens 77 --batches 1 2 4 \
        --prune-batch 2 --repeats 3 --threads 2 [--device cuda] [--compile] [--train-batch 32] OUT.json

A forward pass is that of the UNet in inference mode. A pruning step is the teacher's forward pass, the student's with gates
(hooks, as in test/reference/gates.py) and the gradient of the gates; no weight wants a gradient. A training pass is a forward and a
backward pass with the gradients of all weights, which are fp32, computed in bf16 by autocast. Pruning and training are at the first of
the latents. Times in seconds; memory in bytes: peak_resident is the process's, weights included, peak_memory the GPU's, as PyTorch
allocates it. OUT.json is written after each case: one that is stopped leaves those before it, with --compile the largest ones.
"""

import argparse
import contextlib
import copy
import functools
import gc
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


DTYPES = dict(fp32=torch.float32, bf16=torch.bfloat16)


def make_unet(config, dtype, device):
    """Random weights, made in their final precision and place: an fp32 copy would be the peak of memory."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    with torch.device(device):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(config))
    torch.set_default_dtype(before)
    return unet.to(dtype=dtype, memory_format=torch.channels_last).eval().requires_grad_(False)


frozen_unet = functools.cache(make_unet)  # of all cases but training


def make_inputs(args, unet, batch, latents, dtype):
    channels, width = unet.config.in_channels, unet.config.cross_attention_dim
    sample = torch.randn(batch, channels, latents, latents).to(args.device, dtype, memory_format=torch.channels_last)
    text = torch.randn(batch, args.tokens, width).to(args.device, dtype)
    return sample, torch.full((batch,), 500, device=args.device), text


def best_form(args, unet):
    """What is called in place of the UNet; the shapes and hooks that it meets first must stay."""
    if not args.compile:
        return unet
    torch.compiler.reset()  # graphs of other shapes count towards a limit, behind which nothing is compiled
    return torch.compile(unet, dynamic=False)


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


def measure_forward(args, batch, latents):
    unet = frozen_unet(args.config, DTYPES[args.precision], args.device)
    inputs, run = make_inputs(args, unet, batch, latents, unet.dtype), best_form(args, unet)

    def forward():
        with torch.inference_mode():
            return run(*inputs).sample

    return measure(args, forward)


def measure_prune_step(args):
    """The gradient of values [B, n], the gates. Teacher and student are two networks with the same weights: hooks stay as they are."""
    mse, batch, teacher = torch.nn.functional.mse_loss, args.prune_batch, frozen_unet(args.config, DTYPES[args.precision], args.device)
    student = copy.deepcopy(teacher, {id(parameter): parameter for parameter in teacher.parameters()})
    inputs, table = make_inputs(args, teacher, batch, args.latents[0], teacher.dtype), units.table(student)
    target, teacher_states, states = torch.randn_like(inputs[0]), [], []
    values = torch.full((batch, sum(u.width for u in table.widths) + len(table.depths)), 0.75, device=args.device, requires_grad=True)
    gates = gating.from_vector(values.to(teacher.dtype), table)
    with hidden_states(teacher, teacher_states), hidden_states(student, states), gating.gated(table, gates):
        run_teacher = best_form(args, teacher)
        run_student = torch.compile(student, dynamic=False) if args.compile else student

        def step():
            teacher_states.clear()
            states.clear()
            values.grad = None
            with torch.no_grad():
                taught = run_teacher(*inputs).sample
            output = run_student(*inputs).sample
            blocks = sum(mse(a, b) for a, b in zip(states, teacher_states, strict=True)) / len(states)
            (mse(output, target) + 0.2 * mse(output, taught) + 0.2 * blocks).backward()

        return measure(args, step)


def measure_training(args):
    unet = make_unet(args.config, torch.float32, args.device).requires_grad_(True)
    inputs, run = make_inputs(args, unet, args.train_batch, args.latents[0], torch.float32), best_form(args, unet)
    target = torch.randn_like(inputs[0])

    def training_pass():
        unet.zero_grad(set_to_none=True)
        with torch.autocast(args.device, torch.bfloat16, enabled=args.precision == "bf16"):
            output = run(*inputs).sample
        torch.nn.functional.mse_loss(output.float(), target).backward()

    return measure(args, training_pass)


def reset_peak(args):
    gc.collect()  # what the case before has left
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak resident set size


def time_when_done(args):
    if args.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def measure(args, work):
    """Runs to warm up (and compile), then the median and the shortest of args.repeats."""
    reset_peak(args)
    for _ in range(3 if args.compile else 1):
        work()
    times = []
    for _ in range(args.repeats):
        start = time_when_done(args)
        work()
        times.append(time_when_done(args) - start)
    figures = dict(time=statistics.median(times), time_least=min(times))
    figures["peak_resident"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if args.device == "cuda":
        figures["peak_memory"] = torch.cuda.max_memory_allocated()
    return figures


def cases(args):
    """(name as in bench.py, what measures it)."""
    first, found = f"{args.latents[0]}x{args.latents[0]}", []
    for batch in args.batches:
        for latents in args.latents:
            found.append((f"forward, {latents}x{latents}, batch {batch}", functools.partial(measure_forward, args, batch, latents)))
    if args.prune_batch:
        found.append((f"pruning step, {first}, batch {args.prune_batch}", functools.partial(measure_prune_step, args)))
    if args.train_batch:
        found.append((f"training pass, teacher, {first}, batch {args.train_batch}", functools.partial(measure_training, args)))
    return found[::-1] if args.compile else found  # compilation may use up the time that there is: large work first


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", required=True)
    parser.add_argument("--precision", choices=["fp32", "bf16"], required=True)
    parser.add_argument("--latents", type=int, nargs="+", required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--batches", type=int, nargs="+", required=True)
    parser.add_argument("--prune-batch", type=int, default=0)
    parser.add_argument("--train-batch", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("out")
    args = parser.parse_args()

    torch.manual_seed(1)
    torch.set_num_threads(args.threads)
    torch.backends.cudnn.benchmark = True
    result = dict(torch=torch.__version__, compiled=args.compile, cases={})
    for name, measured in cases(args):
        try:
            result["cases"][name] = measured()
        except torch.cuda.OutOfMemoryError as error:
            print(f"PyTorch: {name}: {error}")
            torch.cuda.empty_cache()
        Path(args.out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
