"""What each expert of a run keeps: a table of all units, and how alike the experts are."""

import sys
from pathlib import Path

import numpy as np

from command_line import parser_of, run_tool
from figures import block_bars, block_shares, blocks_of, colour_of, keep_map
from page import Cell, Picture, Section, Table, Text, html_of, text_of, write_whole
from run_folder import Router, RunError, read_file, read_router

EXAMPLES = """\
  python postproc/experts.py build/demo                        the tables, as text
  python postproc/experts.py build/demo --html experts.html    with the pictures, as one page
"""


def expert_name(k: int) -> Cell:
    return Cell(f"expert {k}" if k >= 0 else "teacher", chip=colour_of(k) if k >= 0 else "#1f2430")


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def unit_table(router: Router) -> Table:
    """A row for each unit, in the order of the network."""
    rows = []
    for unit in router.units:
        kept = [Cell("dropped" if dropped else f"{100 * share:.0f} %", shade=float(share)) for share, dropped in zip(unit.kept, unit.dropped)]
        macs = f"{unit.macs / 1e6:.2f} M" if np.isfinite(unit.macs) else ""
        rows.append([unit.path, unit.kind.replace("_", " "), str(unit.width), macs, *kept])
    return Table(["unit", "kind", "entries", "MACs at full width", *(f"expert {k}" for k in range(len(router.masks)))], rows, left=2)


def block_table(router: Router) -> Table:
    shares = block_shares(router)
    rows = [[block, str(behind - first), *(Cell(percent(share), shade=float(share)) for share in shares[:, i])]
            for i, (block, first, behind) in enumerate(blocks_of(router))]
    return Table(["block", "units", *(f"expert {k}" for k in range(len(router.masks)))], rows,
                 "Kept width of each block of the UNet, units weighted by their MACs")


def expert_table(router: Router) -> Table:
    """A row for each expert: its size, and what it keeps of each kind of unit."""
    kinds = list(dict.fromkeys(unit.kind for unit in router.units))
    rows = []
    for k in range(len(router.masks)):
        kept = [np.mean([unit.kept[k] for unit in router.units if unit.kind == kind]) for kind in kinds]
        dropped = f"{np.count_nonzero(~router.depth_masks[k])} of {len(router.depth_path)}"
        rows.append([expert_name(k), percent(router.ratio[k]), *map(percent, kept), dropped])
    return Table(["expert", "MACs, of the teacher's", *(f"{kind.replace('_', ' ')} kept" for kind in kinds), "blocks dropped"], rows)


def cosine(vectors: np.ndarray) -> np.ndarray:
    """[K, K]; 0 with a vector that is zero"""
    norms = np.linalg.norm(vectors, axis=1)
    products = np.outer(norms, norms)
    return np.divide(vectors @ vectors.T, products, out=np.zeros_like(products), where=products > 0)


def mask_overlap(masks: np.ndarray) -> np.ndarray:
    """[K, K] Jaccard index: entries that both keep over those that at least one keeps; 1 where neither keeps any"""
    both = (masks[:, None] & masks[None]).sum(axis=2)
    either = (masks[:, None] | masks[None]).sum(axis=2)
    return np.divide(both, either, out=np.ones(both.shape), where=either > 0)


def square_table(values: np.ndarray, caption: str) -> Table:
    names = [f"expert {k}" for k in range(len(values))]
    return Table(["", *names], [[expert_name(k), *(Cell(f"{value:.3f}", shade=float(np.clip(value, 0, 1))) for value in row)]
                                for k, row in enumerate(values)], caption)


def similarity_tables(router: Router) -> list[Table]:
    return [square_table(cosine(router.gates), "Cosine of the stored gates: 1 for the same direction"),
            square_table(mask_overlap(router.masks), "Overlap of the masks: entries that both keep over those that either keeps")]


def sections_of(router: Router) -> list[Section]:
    return [Section("experts", "Experts", [expert_table(router), Picture(keep_map(router), "Kept width of every unit, by expert")],
                    "Kept: the mean share of the width that units of a kind keep; a dropped block is a ResNet or transformer that the expert lacks."),
            Section("blocks", "Blocks", [block_table(router), Picture(block_bars(router), "Kept width of every block, by expert")]),
            Section("similarity", "Similarity", similarity_tables(router)),
            Section("units", "Units", [Text(f"{len(router.units)} units with {sum(unit.width for unit in router.units)} width entries and "
                                            f"{len(router.depth_path)} depth entries."), unit_table(router)])]


def main() -> int:
    parser = parser_of(__doc__, EXAMPLES)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder with router.h5")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write tables and pictures as one page, and print nothing")
    arguments = parser.parse_args()

    def work() -> None:
        path = arguments.run / "router.h5"
        if not path.is_file():
            raise RunError(f"{path} is missing; the phase prune writes it")
        router, _ = read_file(path, "router", read_router)
        if arguments.html is None:
            print(text_of(sections_of(router)))
        else:
            page = html_of("What the experts keep", str(arguments.run), sections_of(router))
            write_whole(arguments.html, page.encode())
    return run_tool("experts", work)


if __name__ == "__main__":
    sys.exit(main())
