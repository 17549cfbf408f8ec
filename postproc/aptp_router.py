"""The prompt router as `aptp` exports it: from the sentence embedding of a prompt to its expert. NumPy alone.

    router = Router.from_folder("run/export/router")
    router.experts_of(z)   # z [prompts, embedding_width]: mean-pooled, not normalised

A prompt's architecture is predicted without noise and compared with the stored draw of every expert; the most similar one gets it.
"""

import json
from pathlib import Path

import numpy as np

Array = np.ndarray
DEPTH_MARGIN = 1e-6  # keeps the logarithms of the depth formula finite


def hard(gates: Array) -> Array:
    return (gates >= 0.5).astype(float)


class Router:
    def __init__(self, settings: dict, arrays: dict[str, Array]):
        """settings: router.json; arrays: router.safetensors."""
        if settings["format"] != "aptp-router" or settings["format_version"] != 1:
            raise ValueError(f"format {settings['format']} {settings['format_version']}, aptp-router 1 is supported")
        self.settings = settings
        self.weight, self.bias = arrays["predictor.weight"], arrays["predictor.bias"]  # [n, D], [n]
        self.order = settings["depth_order"]  # depth entries, those that are kept longest first
        self.units = [(slice(unit["first"], unit["first"] + unit["width"]), unit["depth"]) for unit in settings["units"]]
        self.widths = sum(unit["width"] for unit in settings["units"])
        self.scale = self._scale()  # [n]
        self.forms = self.normal_form(arrays["gates"])  # [K, n]

    @classmethod
    def from_folder(cls, folder: str | Path) -> "Router":
        from safetensors.numpy import load_file  # comes with diffusers

        return cls(json.loads(Path(folder, "router.json").read_text()), load_file(Path(folder, "router.safetensors")))

    def similarity(self, z: Array) -> Array:
        """Cosine of the predicted architecture of each prompt and each expert [prompts, K]; z [prompts, D]."""
        return self.normal_form(self.predict(np.asarray(z, dtype=float))) @ self.forms.T

    def experts_of(self, z: Array) -> Array:
        return self.similarity(z).argmax(axis=1)

    def predict(self, z: Array) -> Array:
        """Soft gates [prompts, n] with every Gumbel variable at its median."""
        logits = z @ self.weight.T + self.bias
        gates = np.empty_like(logits)
        for entries, _ in self.units:
            gates[:, entries] = self._sigmoid(logits[:, entries])
            empty = ~(gates[:, entries] >= 0.5).any(axis=1)
            gates[empty, entries.start] += 0.5  # no unit loses everything
        if self.order:
            chance = np.exp(logits[:, self.widths:] - logits[:, self.widths:].max(axis=1, keepdims=True))
            chance = np.cumsum(chance / chance.sum(axis=1, keepdims=True), axis=1)[:, ::-1].clip(max=1)
            chance = np.log(chance + DEPTH_MARGIN) - np.log1p(-(chance - DEPTH_MARGIN))
            gates[:, self.widths + np.array(self.order)] = self._sigmoid(chance)
        return gates

    def normal_form(self, gates: Array) -> Array:
        """Gates [rows, n] as vectors of length 1, whose product is a cosine."""
        kind = self.settings["normal_form"]
        depth, form = gates[:, self.widths:], np.empty_like(gates)
        for entries, under in self.units:
            if under < 0:
                form[:, entries] = gates[:, entries] if kind == "soft" else hard(gates[:, entries])
            elif kind == "hard":
                form[:, entries] = hard(gates[:, entries]) * hard(depth[:, under, None])
            else:
                form[:, entries] = gates[:, entries] * depth[:, under, None]
        form[:, self.widths:] = depth if kind == "soft" else hard(depth)
        form *= self.scale
        length = np.linalg.norm(form, axis=1, keepdims=True)
        return np.divide(form, length, out=form, where=length > 0)

    def _sigmoid(self, x: Array) -> Array:
        x = (x + self.settings["gumbel_median"] + self.settings["offset"]) / self.settings["gamma"]
        return 1 / (1 + np.exp(-np.clip(x, -700, 700)))

    def _scale(self) -> Array:
        """What multiplies each entry: 1 / sqrt(width) of its unit, with mac_weights also the share of the MACs."""
        units, depth = self.settings["units"], self.settings["depth"]
        weighs = self.settings["mac_weights"]
        total = sum(unit["macs"] for unit in [*units, *depth])
        share = [unit["macs"] / total if weighs else 1.0 for unit in units]
        width_scale = np.concatenate([np.full(unit["width"], s / unit["width"] ** 0.5) for unit, s in zip(units, share, strict=True)])
        depth_scale = np.array([entry["macs"] / total if weighs else 1.0 for entry in depth])
        if weighs:
            for unit, s in zip(units, share, strict=True):
                if unit["depth"] >= 0:
                    depth_scale[unit["depth"]] += s
        return np.concatenate([width_scale, depth_scale])
