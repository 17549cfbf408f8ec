"""An estimate on paper, measured nowhere: how the pruning and the fine-tuning of a UNet scale over GPUs.

Per step and rank: the arithmetic of the networks at an assumed share of the GPU's speed, and the bytes that MPI moves at the
network's stated speed. Pruning gathers each sample's losses and gate gradients after its passes, and nothing hides that. Fine-tuning
sums the gradients of an expert over its group of ranks, bucket by bucket, beside the rest of the backward pass; what outlasts that, and
the last bucket, is seen. Messages go round a ring in which a node's ranks stand together, so that one link a node leaves it. The defaults are Stable Diffusion 2.1 at 256 x 256 pixels with an expert of 0.6 of its MACs, the paper's
batches, and H100 GPUs of which four share a node's network of 400 Gbit/s; the GPU's share of its speed is an assumption (0.4, and it is
less where few samples are left to a rank). Numbers of your own machine: aptp's bench phase.
"""

import sys
from dataclasses import dataclass

from command_line import RunError, parser_of, run_tool

EXAMPLES = """\
  python postproc/scaling.py                                        the table in README
  python postproc/scaling.py --gpu-tflops 312 --network-gbytes 25   A100 GPUs, 200 Gbit/s for each node
"""
FP32 = 4  # bytes: of gradients and gate gradients


@dataclass
class Step:
    local: float  # samples of a rank
    compute: float  # seconds of arithmetic
    hideable: float  # seconds of it that communication can run beside
    message: float  # bytes that a rank sends and receives
    exchange: float  # seconds of communication
    last: float = 0  # seconds of the part that nothing hides

    @property
    def seen(self) -> float:
        return max(self.exchange - self.hideable, self.last)

    @property
    def seconds(self) -> float:
        return self.compute + self.seen


def ring(options, values: float, ranks: int, turns: int) -> tuple[float, float]:
    """Bytes through a rank, and seconds: turns = 2 for an allreduce (sums, then what they are), 1 for an allgather."""
    message = turns * (ranks - 1) / ranks * values
    speed = options.node_gbytes if ranks <= options.gpus_a_node else options.network_gbytes
    return message, message / (speed * 1e9 * options.network_share) + turns * (ranks - 1) * options.latency


def prune_step(options, ranks: int) -> Step:
    """Teacher forward, student forward and the backward pass to its inputs (weights are frozen): three times the MACs."""
    local = options.prune_batch / ranks
    compute = 3 * local * 2e9 * options.macs / (options.gpu_tflops * 1e12 * options.share)
    message, exchange = ring(options, options.prune_batch * options.gates * FP32, ranks, 1)
    return Step(local, compute, 0, message, exchange)


def finetune_step(options, ranks: int) -> Step:
    """Of one expert by its group: teacher forward, expert forward and backward to inputs and weights."""
    group = max(ranks // options.experts, 1)
    local = options.finetune_batch / group
    sample = 2e9 * options.macs / (options.gpu_tflops * 1e12 * options.share)
    expert = sample * options.expert_macs
    compute, backward = local * (sample + 3 * expert), local * 2 * expert
    values = options.expert_parameters * 1e6 * FP32
    message, exchange = ring(options, values, group, 2)
    last = exchange * min(options.bucket_mib * 2**20 / values, 1)
    return Step(local, compute, backward, message, exchange, last)


def table(options, name: str, step_of, base: int) -> list[str]:
    lines = [f"| {name}: GPUs | samples a GPU | MB a step and GPU | arithmetic | seen of MPI | step | of ideal |", "|---:|---:|---:|---:|---:|---:|---:|"]
    first = step_of(options, base)
    for ranks in options.gpus:
        step = step_of(options, ranks)
        if step.local < 1:
            break
        ideal = first.seconds * base / ranks
        lines.append(
            f"| {ranks} | {step.local:g} | {step.message / 1e6:.1f} | {1e3 * step.compute:.1f} ms | {1e3 * step.seen:.2f} ms | "
            f"{1e3 * step.seconds:.1f} ms | {ideal / step.seconds:.0%} |"
        )
    return lines


def main() -> int:
    parser = parser_of(__doc__, EXAMPLES)
    add = parser.add_argument
    add("--gpus", type=int, nargs="+", default=[16, 32, 64, 128, 256, 512, 1024], metavar="N", help="numbers of GPUs, ascending")
    add("--macs", type=float, default=90.5, metavar="G", help="GMACs a sample of the teacher (default 90.5: SD 2.1 at 32 x 32 latents)")
    add("--gates", type=int, default=1620, metavar="N", help="entries of an architecture vector (default %(default)s)")
    add("--expert-macs", type=float, default=0.6, metavar="SHARE", help="an expert's share of the MACs (default %(default)s)")
    add("--expert-parameters", type=float, default=503.9, metavar="M", help="an expert's parameters, millions (default %(default)s)")
    add("--experts", type=int, default=16, metavar="K", help="ranks are dealt out among so many (default %(default)s)")
    add("--prune-batch", type=int, default=1024, metavar="N", help="over all ranks (default %(default)s)")
    add("--finetune-batch", type=int, default=128, metavar="N", help="of one expert, over its ranks (default %(default)s)")
    add("--bucket-mib", type=float, default=25, metavar="MIB", help="comm.bucket_mib (default %(default)s)")
    add("--gpu-tflops", type=float, default=989, metavar="T", help="peak of a GPU (default %(default)s: H100, bf16, dense, as its maker states)")
    add("--share", type=float, default=0.4, metavar="SHARE", help="of that peak, assumed (default %(default)s)")
    add("--gpus-a-node", type=int, default=4, metavar="N", help="of a node (default %(default)s)")
    add("--network-gbytes", type=float, default=50, metavar="GB/S", help="of a node, each way (default %(default)s: 400 Gbit/s)")
    add("--node-gbytes", type=float, default=450, metavar="GB/S", help="between a node's GPUs, each way (default %(default)s: NVLink 4)")
    add("--network-share", type=float, default=0.7, metavar="SHARE", help="of those speeds, assumed (default %(default)s)")
    add("--latency", type=float, default=5e-6, metavar="S", help="of a message (default %(default)s)")
    options = parser.parse_args()

    def work() -> None:
        if any(b <= a for a, b in zip(options.gpus, options.gpus[1:])) or options.gpus[0] < 1:
            raise RunError("--gpus: numbers of GPUs must be positive and ascend")
        base = options.gpus[0]
        print("\n".join(table(options, "prune", prune_step, base) + [""] + table(options, "finetune", finetune_step, base)))

    return run_tool("scaling", work)


if __name__ == "__main__":
    sys.exit(main())
