"""The router in PyTorch float64, gradients by torch.autograd: METHOD 3, 3a and 4, formula by formula.

The functions are also what prune_step.py puts together. Shapes: B prompts, K codes, n entries (all width entries,
then all depth entries), U width units.
"""

import math

import mpmath
import numpy as np
import torch
import torch.nn.functional as F

import fixture
import units
from layout import Layout

GAMMA, OFFSET = 0.4, 3.0  # Gumbel-sigmoid (Eq. 9)
EPS, ITERATIONS = 0.05, 3  # optimal transport
TAU = 0.03  # contrastive loss


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, v):
        return (v >= 0.5).to(v.dtype)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


hard = StraightThrough.apply


def gumbel_width(logits, g, gamma=GAMMA, b=OFFSET):
    """[B, w] of one unit. A unit that would lose everything keeps its first entry."""
    v = torch.sigmoid((logits + g + b) / gamma)
    empty = (v < 0.5).all(dim=1)
    rescue = torch.zeros_like(v)
    rescue[empty, 0] = 0.5
    return v + rescue


def gumbel_depth(logits, g, order, gamma=GAMMA, b=OFFSET):
    """[B, n_depth]. Chances fall off along the keep order, noise is independent per entry."""
    p = torch.softmax(logits, dim=1)
    c = torch.cumsum(p, dim=1).flip(1).clamp(max=1)
    x = torch.log(c + 1e-6) - torch.log1p(-(c - 1e-6))
    u = torch.sigmoid((x + g + b) / gamma)
    d = [None] * len(order)
    for i, place in enumerate(order):
        d[place] = u[:, i]
    return torch.stack(d, dim=1)


def gumbel(logits, g, layout, gamma=GAMMA, b=OFFSET):
    """Soft gates [B, n] from logits and noise of the same shape."""
    parts = [gumbel_width(logits[:, s], g[:, s], gamma, b) for s, _ in layout.slices()]
    if layout.n_depth:
        s = slice(layout.n_width, layout.n)
        parts.append(gumbel_depth(logits[:, s], g[:, s], layout.order, gamma, b))
    return torch.cat(parts, dim=1)


def normal_form(v, layout, kind, width_share=None, depth_share=None):
    """Unit vectors [B, n] to be compared by cosine. kind: mixed, hard, soft.

    width_share [U], depth_share [n_depth]: shares of the prunable MACs (router.mac_weights), none by default.
    """
    gates = v[:, layout.n_width :]
    parts = []
    for i, (s, d) in enumerate(layout.slices()):
        part = v[:, s]
        gate = gates[:, d : d + 1] if d >= 0 else None
        if kind == "hard" or (kind == "mixed" and gate is None):
            part = hard(part)
        if gate is not None:
            part = part * (hard(gate) if kind == "hard" else gate)
        part = part / math.sqrt(layout.width[i])
        parts.append(part if width_share is None else part * width_share[i])
    gates = gates if kind == "soft" else hard(gates)
    parts.append(gates if depth_share is None else gates * depth_share)
    whole = torch.cat(parts, dim=1)
    return whole / whole.norm(dim=1, keepdim=True)


def transport(similarity, eps=EPS, iterations=ITERATIONS):
    """similarity [B, K] -> plan [B, K], expert [B]. Rows of Q are experts, columns are prompts."""
    B, K = similarity.shape
    Q = torch.exp(similarity.T / eps)
    Q = Q / Q.sum()
    for _ in range(iterations):
        Q = Q / Q.sum(dim=1, keepdim=True) / K
        Q = Q / Q.sum(dim=0, keepdim=True) / B
    plan = (Q * B).T
    return plan, plan.argmax(dim=1)


def log_one_minus_softmax(x):
    """log(1 - softmax(x)) by rows, as the log-sum-exp over the other entries; -inf for a row of one entry."""
    B = x.shape[1]
    others = x[:, None, :].expand(-1, B, -1).masked_fill(torch.eye(B, dtype=torch.bool), -math.inf)
    return torch.logsumexp(others, dim=2) - torch.logsumexp(x, dim=1, keepdim=True)


def contrastive(z, architecture, tau=TAU):
    """Scalar. z [B, D] any length; architecture [B, n] unit vectors, so that their cosine is the plain product."""
    unit = F.normalize(z, dim=1)
    T = torch.softmax(unit @ unit.T / tau, dim=1).detach()
    S = architecture @ architecture.T / tau
    log_A = torch.log_softmax(S, dim=1)
    # 0 * -inf is 0 here: with one prompt T is 1 and its complement is absent.
    log_not_A = log_one_minus_softmax(S) if len(z) > 1 else torch.zeros_like(S)
    return -(T * log_A + (1 - T) * log_not_A).mean()


def precise_contrastive(z, architecture, tau):
    """Loss and gradient of the formula as it stands, in 60 digits and by central differences. Where each prompt is
    like itself alone both are next to 0, and float64, whose terms are of order one, has few of their digits."""
    with mpmath.workdps(60):
        rows = [[[mpmath.mpf(float(v)) for v in row] for row in x.detach()] for x in (F.normalize(z, dim=1), architecture)]

        def softmax(x):
            scores = [[mpmath.fdot(a, b) / tau for b in x] for a in x]
            exps = [[mpmath.exp(s) for s in row] for row in scores]
            return [[e / mpmath.fsum(row) for e in row] for row in exps]

        T = softmax(rows[0])

        def loss(x):
            pairs = [pair for t, a in zip(T, softmax(x)) for pair in zip(t, a)]
            return -mpmath.fsum(t * mpmath.log(a) + (1 - t) * mpmath.log(1 - a) for t, a in pairs) / len(pairs)

        x, step = rows[1], mpmath.mpf(10) ** -20
        gradient = np.zeros(architecture.shape)
        for i, row in enumerate(x):
            for k, value in enumerate(row):
                row[k] = value + step
                above = loss(x)
                row[k] = value - step
                gradient[i, k] = (above - loss(x)) / (2 * step)
                row[k] = value
        return float(loss(x)), gradient


def resource(ratio, target, form):
    """Scalar. ratio [B], target already moved to the prunable part."""
    R = ratio.mean()
    if form == "log":
        return (R / target).log().abs()
    return (R - target).abs() if form == "mae" else (R - target) ** 2


def spread(ratio, form):
    """Scalar. Rewards one large expert (max) or unequal ones (std, with B - 1)."""
    return 1 - ratio.max() if form == "max" else -ratio.std(unbiased=True)


def mac_ratio(gates, layout, width_macs, depth_macs):
    """[B], from hard gates with straight-through gradients. width_macs [U], depth_macs [n_depth]."""
    depth = hard(gates[:, layout.n_width :])
    spent = depth @ depth_macs
    for i, (s, d) in enumerate(layout.slices()):
        kept = hard(gates[:, s]).mean(dim=1)
        spent = spent + width_macs[i] * (kept * depth[:, d] if d >= 0 else kept)
    return spent / (width_macs.sum() + depth_macs.sum())


def budget_target(p, total, prunable):
    """The target of total MACs, moved to the prunable part."""
    return 1 - (1 - p) * total / prunable


# ---- fixtures


def tensor(rng, *shape, scale=1.0):
    return torch.tensor(rng.standard_normal(shape) * scale)


def noise(rng, *shape):
    return torch.tensor(rng.gumbel(size=shape))


def gradients(loss, **leaves):
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()))))


def write_transport(name, B, K, spread_of=0.2, **settings):
    similarity = torch.tensor(np.clip(0.7 + spread_of * fixture.generator(name).standard_normal((B, K)), -1, 1))
    plan, expert = transport(similarity, **settings)
    # An argmax that rounding could turn tests nothing; one prompt is a tie by mathematics, and the first expert wins.
    top = plan.sort(dim=1, descending=True).values
    assert B == 1 or K == 1 or (top[:, 0] - top[:, 1]).min() > 1e-6
    attributes = dict(eps=settings.get("eps", EPS), iterations=settings.get("iterations", ITERATIONS))
    fixture.write(name, "transport", attributes, inputs=dict(similarity=similarity),
                  outputs=dict(plan=plan, expert=expert))


def write_contrastive(name, B, D, n, near=0.0, tau=TAU, precise=False):
    """near: how much of each architecture is common to all; 1 minus a little makes A next to 1/B everywhere.
    precise: the loss is so small that float64 does not have its digits."""
    rng = fixture.generator(name)
    z = tensor(rng, B, D)
    architecture = (1 - near) * tensor(rng, B, n) + near * tensor(rng, 1, n)
    architecture = F.normalize(architecture, dim=1).requires_grad_()
    loss = contrastive(z, architecture, tau)
    if tau >= 0.5:  # mild enough for the formula as it stands
        A, T = (torch.softmax(F.normalize(x, dim=1) @ F.normalize(x, dim=1).T / tau, dim=1) for x in (architecture, z))
        assert (F.binary_cross_entropy(A, T) - loss).abs() < 1e-12
    found = gradients(loss, architecture=architecture)
    if precise:
        small_loss, small_gradient = precise_contrastive(z, architecture, tau)
        assert abs(loss.item() - small_loss) < 1e-14 and np.abs(found["architecture"] - small_gradient).max() < 1e-13
        loss, found = np.float64(small_loss), dict(architecture=small_gradient)
    fixture.write(name, "contrastive", dict(tau=tau), inputs=dict(z=z, architecture=architecture),
                  outputs=dict(loss=loss), gradients=found)


def write_resource(name, form, B, target):
    ratio = torch.tensor(fixture.generator(name).uniform(0.2, 1.0, B)).requires_grad_()
    loss = resource(ratio, target, form)
    fixture.write(name, "resource", dict(form=form), inputs=dict(ratio=ratio, target=np.float64(target)),
                  outputs=dict(loss=loss), gradients=gradients(loss, ratio=ratio))


def write_spread(name, form, B):
    ratio = torch.tensor(fixture.generator(name).uniform(0.2, 1.0, B)).requires_grad_()
    loss = spread(ratio, form)
    fixture.write(name, "spread", dict(form=form), inputs=dict(ratio=ratio), outputs=dict(loss=loss),
                  gradients=gradients(loss, ratio=ratio))


def write_gumbel_width(name, B, n, shift=0.0, empty=(), gamma=GAMMA, b=OFFSET):
    """empty: rows pushed so low that the whole unit is below one half."""
    rng = fixture.generator(name)
    logits = tensor(rng, B, n, scale=3) + shift
    for row in empty:
        logits[row] -= 20
    logits.requires_grad_()
    g = noise(rng, B, n)
    gate = gumbel_width(logits, g, gamma, b)
    assert all((gate[row] >= 0.5).tolist() == [True] + [False] * (n - 1) for row in empty)
    fixture.write(name, "gumbel_width", dict(gamma=gamma, b=b), inputs=dict(logits=logits, gumbel=g),
                  outputs=dict(gate=gate), gradients=gradients((gate**2).mean(), logits=logits))


def write_gumbel_depth(name, B, order, scale=1.0, gamma=GAMMA, b=OFFSET):
    rng = fixture.generator(name)
    logits = tensor(rng, B, len(order), scale=scale).requires_grad_()
    g = noise(rng, B, len(order))
    gate = gumbel_depth(logits, g, order, gamma, b)
    inputs = dict(logits=logits, gumbel=g, order=np.int64(order))
    fixture.write(name, "gumbel_depth", dict(gamma=gamma, b=b), inputs=inputs, outputs=dict(gate=gate),
                  gradients=gradients((gate**2).mean(), logits=logits))


def soft_vectors(rng, B, layout, depth_off=()):
    """Random soft gates with both sides of one half well filled; depth_off: rows whose depth gates are all closed."""
    v = torch.tensor(rng.uniform(0.02, 0.98, (B, layout.n)))
    for row in depth_off:
        v[row, layout.n_width :] *= 0.5
    for s, _ in layout.slices():  # no unit may be empty
        v[:, s.start] = v[:, s.start].clamp(min=0.55)
    assert (v - 0.5).abs().min() > 1e-9
    return v.requires_grad_()


def write_normal_form(name, layout, kind, B, depth_off=(), shares=False):
    rng = fixture.generator(name)
    v = soft_vectors(rng, B, layout, depth_off)
    weights = tensor(rng, B, layout.n)
    inputs = dict(v=v, weights=weights, **layout.datasets())
    width_share = depth_share = None
    if shares:
        width_share = torch.tensor(rng.uniform(0, 1, len(layout.width)))
        depth_share = torch.tensor(rng.uniform(0, 1, layout.n_depth))
        inputs.update(width_share=width_share, depth_share=depth_share)
    out = normal_form(v, layout, kind, width_share, depth_share)
    fixture.write(name, "normal_form", dict(normal_form=kind), inputs=inputs, outputs=dict(out=out),
                  gradients=gradients((out * weights).mean(), v=v))


def write_ratio(name, layout, B, depth_off=()):
    rng = fixture.generator(name)
    gates = soft_vectors(rng, B, layout, depth_off)
    width_macs = torch.tensor(rng.integers(1000, 100000, len(layout.width)).astype(float))
    depth_macs = torch.tensor(rng.integers(100, 10000, layout.n_depth).astype(float))
    weights = tensor(rng, B)
    ratio = mac_ratio(gates, layout, width_macs, depth_macs)
    inputs = dict(gates=gates, weights=weights, width_macs=width_macs, depth_macs=depth_macs, **layout.datasets())
    fixture.write(name, "mac_ratio", inputs=inputs, outputs=dict(ratio=ratio),
                  gradients=gradients((ratio * weights).mean(), gates=gates))


def write_predictor(name, layout, kind, B, D):
    """The whole way of L_cont: z -> linear -> Gumbel gates -> normal form -> loss, with the predictor's gradients."""
    rng = fixture.generator(name)
    z = tensor(rng, B, D)
    weight = tensor(rng, layout.n, D, scale=1.5 / math.sqrt(D)).requires_grad_()
    bias = (tensor(rng, layout.n) - 2.5).requires_grad_()  # about as many gates closed as open
    g = noise(rng, B, layout.n)
    logits = z @ weight.T + bias
    gates = gumbel(logits, g, layout)
    architecture = normal_form(gates, layout, kind)
    loss = contrastive(z, architecture)
    assert (gates - 0.5).abs().min() > 1e-6
    inputs = dict(z=z, predictor_weight=weight, predictor_bias=bias, gumbel=g, **layout.datasets())
    outputs = dict(logits=logits, gates=gates, architecture=architecture, loss=loss)
    fixture.write(name, "predictor_contrastive", dict(normal_form=kind, gamma=GAMMA, b=OFFSET, tau=TAU), inputs=inputs,
                  outputs=outputs, gradients=gradients(loss, predictor_weight=weight, predictor_bias=bias))


SMALL = Layout(width=[8, 3, 1, 5, 8, 2, 7], depth=[-1, 0, 1, 1, -1, -1, 2], order=[-1, 0, 1])
FLAT = Layout(width=[4, 6], depth=[-1, -1], order=[])  # no depth entry at all


def main():
    write_transport("transport_b64_k16", 64, 16)
    write_transport("transport_b7_k3", 7, 3)
    write_transport("transport_b5_k8", 5, 8, eps=0.1, iterations=7)  # more experts than prompts
    write_transport("transport_b1_k3", 1, 3)  # all experts tie
    write_transport("transport_b9_k1", 9, 1, spread_of=0.05)

    write_contrastive("contrastive_b5", 5, 12, 30, precise=True)
    write_contrastive("contrastive_b2", 2, 3, 4, tau=0.5)
    write_contrastive("contrastive_b1", 1, 8, 10)
    write_contrastive("contrastive_near", 16, 24, 40, near=0.999)

    for form in ("log", "mae", "mse"):
        write_resource(f"resource_{form}", form, 9, 0.45)
        write_resource(f"resource_{form}_b1", form, 1, 0.95)
    for form in ("max", "std"):
        write_spread(f"spread_{form}", form, 9)

    write_gumbel_width("gumbel_width", 5, 32, shift=-3)
    write_gumbel_width("gumbel_width_empty", 4, 5, shift=-3, empty=(0, 2))
    write_gumbel_width("gumbel_width_one", 3, 1, shift=-3, empty=(1,))
    write_gumbel_width("gumbel_width_settings", 2, 20, gamma=1.3, b=0.25)
    write_gumbel_depth("gumbel_depth", 6, [-1, -2, 0, 1, -3, -4, 2, 3, -5, -6, 4, 5, -7, 6])
    write_gumbel_depth("gumbel_depth_peaked", 5, [3, 0, 2, 1, 4], scale=8)
    write_gumbel_depth("gumbel_depth_one", 3, [0])

    sd21 = units.table(units.sd21()).layout()
    for kind in ("mixed", "hard", "soft"):
        write_normal_form(f"normal_form_{kind}", sd21, kind, 2, depth_off=(1,))
        write_normal_form(f"normal_form_{kind}_small", SMALL, kind, 5, depth_off=(0,))
        write_predictor(f"predictor_contrastive_{kind}", SMALL, kind, 6, 10)
    write_normal_form("normal_form_shares", SMALL, "mixed", 5, shares=True)
    write_normal_form("normal_form_flat", FLAT, "mixed", 1)
    write_ratio("mac_ratio", SMALL, 5, depth_off=(2,))
    write_ratio("mac_ratio_flat", FLAT, 2)
    write_predictor("predictor_contrastive_b1", SMALL, "mixed", 1, 10)


if __name__ == "__main__":
    main()
