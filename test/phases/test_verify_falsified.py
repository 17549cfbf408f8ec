"""Phase verify on references that were changed: one number makes it fail, anything broken is refused by name.

Usage: test_verify_falsified.py APTP
"""

import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import h5py
import numpy as np

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
PROGRAM = Path("aptp").resolve()
ENVIRONMENT = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")


def shift(dataset, amount, index=-1):
    """Moves one element by a share of the largest."""
    values = dataset[()].reshape(-1) if dataset.shape else dataset[()].reshape(1)
    values[index] += amount * np.abs(values).max()
    dataset[...] = values.reshape(dataset.shape)


class Falsified(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def verify(self, name, change=lambda file: None, folder_change=lambda folder: None, options=()):
        """Exit code and text of verify on a changed copy of a fixture and its folder."""
        copy = Path(self.folder.name, f"{name}.h5")
        shutil.copy(FIXTURES / f"{name}.h5", copy)
        with h5py.File(copy, "r+") as file:
            model = file.attrs.get("folder")
            if model is not None and (FIXTURES / model).exists():
                target = Path(self.folder.name, model)
                shutil.rmtree(target, ignore_errors=True)
                shutil.copytree(FIXTURES / model, target)
                folder_change(target)
            change(file)
        command = [PROGRAM, "input/verify.cfg", "--set", f"run.folder={self.folder.name}/run", "--set",
                   f"verify.reference={copy}", *options]
        done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
        return done.returncode, done.stdout + done.stderr

    def expect(self, code, message, name, change=lambda file: None, **more):
        found, text = self.verify(name, change, **more)
        self.assertEqual(found, code, text)
        self.assertIn(message, text)

    def test_untouched_copy_passes(self):
        self.expect(0, "all within their limits", "unet_sd1_gated")

    def test_one_number_fails(self):
        # (fixture, dataset, share of the largest value: somewhat over the limit)
        depth = "gate_gradients/down_blocks.0.resnets.1.depth"
        cases = [
            ("unet_sd1", "outputs/sample", 2e-4),
            ("unet_sd1", "outputs/loss", 2e-4),
            ("unet_sd1_gated", "gate_gradients/mid_block.attentions.0.transformer_blocks.0.ff", None),
            ("unet_sd1_gated", depth, None),
            ("unet_sd1", "gradients/down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k.weight", None),
            ("unet_sd1", "gradients/latents", None),
            ("unet_sd2_sliced", "weights/mid_block.resnets.0.conv1.weight", 1e-6),
            ("transport_b7_k3", "outputs/plan", 2e-9),
            ("contrastive_near", "outputs/loss", 2e-9),
            ("contrastive_b5", "gradients/architecture", 2e-9),
            ("resource_log", "gradients/ratio", 2e-9),
            ("gumbel_width", "outputs/gate", 2e-9),
            ("gumbel_depth", "gradients/logits", 2e-9),
            ("prune_step_main_hard", "gradients/codes", None),
            ("prune_step_main", "outputs/loss/total", 2e-4),
            ("prune_step_main", "outputs/loss/resource", 2e-9),
            ("prune_step_main", "outputs/similarity", 2e-9),
            ("bert_small", "outputs/embedding", 2e-4),
            ("sentence_encoder_small", "outputs/embedding", 2e-4),
            ("inception_narrow", "outputs/features", 2e-4),
            ("vae_odd", "outputs/logvar", 2e-4),
            ("vae_old", "outputs/decoded", 2e-4),
            ("vae_odd_half", "outputs/tiled_mean", 2e-4),
            ("vae_odd_half", "outputs/tiled_decoded", 2e-4),
            ("text_encoder_small", "outputs/last_hidden_state", 2e-4),
            ("clip_text_quick", "outputs/last_hidden_state", 2e-4),
            ("clip_text_projection", "outputs/text_embeds", 2e-4),
            ("pndm", "outputs/samples", 2e-4),
            ("ddim", "outputs/samples", 2e-4),
            ("dpmpp_epsilon", "outputs/samples", 2e-4),
            ("frechet", "outputs/distance", 2e-6),
            ("frechet_few", "outputs/distance", 2e-6),
            ("cmmd", "outputs/distance", 2e-6),
            ("resize_fid_up", "outputs/image", 2e-4),
            ("resize_clip_same", "outputs/image", 2e-4),
            ("clip_vision_whole", "outputs/image_embeds", 2e-4),
            ("text_to_image_wide", "outputs/image", 2e-4),
        ]
        for name, dataset, amount in cases:
            with self.subTest(name=name, dataset=dataset):
                def change(file):
                    if amount is not None:
                        return shift(file[dataset], amount)
                    # a gradient's limit is taken from the largest gradient of all
                    largest = max(np.abs(d[()]).max() for group in ("gradients", "gate_gradients") if group in file
                                  for d in file[group].values())
                    share = 2e-3 * largest / np.abs(file[dataset][()]).max()
                    return shift(file[dataset], share)

                found, text = self.verify(name, change)
                self.assertEqual(found, 1, text)
                failed = [line.split()[1] for line in text.splitlines() if line.endswith("FAIL")]
                self.assertEqual(failed[:1], [dataset])
                self.assertIn("quantities are over their limits", text)

    def test_distances_near_zero(self):
        """Their limit is absolute: 1e-7 of the terms that cancel in Frechet's, which here are 2.8, and 1e-6 in CMMD."""
        for name, good, bad in (("frechet_same", 2e-7, 4e-7), ("cmmd_same", 5e-7, 2e-6)):
            for value, code in ((good, 0), (bad, 1), (-bad, 1)):
                with self.subTest(name=name, value=value):
                    found, text = self.verify(name, lambda file: file["outputs/distance"].__setitem__((), value))
                    self.assertEqual(found, code, text)

    def test_pictures_have_a_limit_of_their_own(self):
        """1/255 of the mean difference, which no tolerance moves."""
        for share, code in ((0.9, 0), (1.1, 1)):
            def change(file):
                image = file["outputs/image"][()]
                file["outputs/image"][...] = image + np.float32(share / 255) * np.where(image < 0.5, 1, -1)
            with self.subTest(share=share):
                found, text = self.verify("text_to_image_wide", change, options=("--set", "verify.tolerance=0.1"))
                self.assertEqual(found, code, text)
                failed = [line for line in text.splitlines() if line.endswith("FAIL")]
                self.assertTrue(code == 0 or len(failed) == 1 and "mean of the differences" in failed[0], text)

    def test_one_integer_fails(self):
        for name, dataset in (("transport_b7_k3", "outputs/expert"), ("wordpiece_small", "outputs/input_ids"),
                              ("clip_bpe_small", "outputs/input_ids"),
                              ("wordpiece_small", "outputs/length"), ("prune_step_main", "outputs/expert"),
                              ("pndm", "outputs/timesteps"), ("ddim", "outputs/timesteps"),
                              ("dpmpp", "outputs/timesteps")):
            with self.subTest(name=name, dataset=dataset):
                def change(file):
                    values = file[dataset][()]
                    values.reshape(-1)[3] += 1
                    file[dataset][...] = values
                self.expect(1, "1 of", name, change)

    def test_inputs_matter(self):
        """Every input takes part: without this a reference could be compared with something else."""
        for name, dataset in (("unet_odd", "inputs/text_states"), ("unet_odd", "inputs/latents"),
                              ("vae_old", "inputs/image"), ("vae_old", "inputs/latent"),
                              ("prune_step_main", "inputs/gumbel_code"), ("prune_step_main", "inputs/eps"),
                              ("prune_step_warmup", "inputs/predictor_bias"), ("pndm", "inputs/sample"),
                              ("ddim", "inputs/model_output"), ("dpmpp", "inputs/sample"),
                              ("inception_narrow_least", "inputs/image"),
                              ("dpmpp", "inputs/model_output"), ("frechet", "inputs/a"), ("frechet", "inputs/b"),
                              ("cmmd", "inputs/a"), ("cmmd", "inputs/b"), ("text_to_image_wide", "inputs/latents")):
            with self.subTest(name=name, dataset=dataset):
                self.expect(1, "over their limits", name, lambda file: shift(file[dataset], 0.3, 0))
        for dataset in ("inputs/prompt", "inputs/negative_prompt"):
            with self.subTest(dataset=dataset):
                self.expect(1, "over their limits", "text_to_image_wide", lambda file: file[dataset].__setitem__(3, "cat"))
        for attribute, value in (("steps", 5), ("guidance", 3.1)):
            with self.subTest(attribute=attribute):
                self.expect(1, "over their limits", "text_to_image_wide", lambda file: file.attrs.__setitem__(attribute, value))

    def test_broken_references_are_refused(self):
        def replace(name, values):
            def change(file):
                del file[name]
                file[name] = values
            return change

        def attribute(name, value):
            return lambda file: file.attrs.__setitem__(name, value)

        def remove(name):
            return lambda file: file.__delitem__(name)

        text_mask = np.zeros((1, 9), np.int64)
        width_gate, depth_gate = "gates/down_blocks.0.resnets.0", "gates/down_blocks.1.resnets.0.depth"
        bad = np.float32(np.nan)
        cases = [
            ("unet_sd1", attribute("model", "unett"), 'model "unett" is unknown'),
            ("unet_sd1", attribute("model", "resize"), "attribute mode of /"),
            ("unet_sd1", lambda file: file.attrs.__delitem__("model"), "model"),
            ("unet_sd1", lambda file: file.attrs.__delitem__("folder"), "folder"),
            ("unet_sd1", attribute("folder", "nowhere"), "nowhere/config.json"),
            ("unet_sd1", attribute("folder", "unet_sd2"), "unet_sd2"),
            ("unet_sd1", remove("inputs/latents"), "inputs/latents"),
            ("unet_sd1", remove("inputs/target"), "inputs/target"),
            ("unet_sd1", remove("outputs/sample"), "outputs/sample"),
            ("unet_sd1", replace("inputs/latents", np.zeros((2, 3, 8, 8), np.float32)), "inputs/latents"),
            ("unet_sd1", replace("inputs/latents", np.zeros((0, 4, 8, 8), np.float32)), "inputs/latents"),
            ("unet_sd1", replace("inputs/latents", np.zeros((2, 4, 1, 8), np.float32)), "latents of 1 x 8"),
            ("unet_sd1", replace("inputs/latents", np.full((2, 4, 8, 8), bad)), "inputs/latents: element 0 is not finite"),
            ("unet_sd1", replace("inputs/timesteps", np.zeros(3, np.int64)), "inputs/timesteps"),
            ("unet_sd1", replace("inputs/timesteps", np.full(2, -1)), "inputs/timesteps: element 0 is -1"),
            ("unet_sd1", replace("inputs/text_states", np.zeros((2, 6, 19), np.float32)), "inputs/text_states"),
            ("unet_sd1", replace("outputs/sample", np.full((2, 4, 8, 8), bad)), "outputs/sample: element 0 is not finite"),
            ("unet_sd1", lambda file: file.create_dataset("outputs/samples", data=np.zeros(3, np.float32)), "outputs/samples"),
            ("unet_sd1", lambda file: file.create_dataset("gradients/nothing", data=np.zeros(3, np.float32)),
             "gradients/nothing"),
            ("unet_sd1", replace("gradients/conv_in.bias", np.zeros(9, np.float32)), "gradients/conv_in.bias"),
            ("unet_odd", replace("inputs/text_mask", text_mask), "inputs/text_mask hides all tokens of sample 0"),
            ("unet_odd", replace("inputs/text_mask", text_mask + 2), "inputs/text_mask: element 0 is 2"),
            ("unet_odd", lambda file: (attribute("ff_entries", 5)(file), file.create_dataset(depth_gate, data=np.ones(1, "f4"))),
             "down_blocks.1.resnets.0 changes the number of channels"),
            ("unet_odd", lambda file: file.create_dataset(width_gate, data=np.ones((1, 5), "f4")),
             "60 wide, which its 32 gate entries"),
            ("unet_sd2_gated", replace(width_gate, np.ones((3, 5), np.float32)), width_gate),
            ("unet_sd2_gated", lambda file: file.move(width_gate, "gates/down_blocks.9.resnets.0"), "down_blocks.9.resnets.0"),
            ("unet_sd2_gated", attribute("ff_entries", 0), "ff_entries"),
            ("unet_sd2_gated", attribute("ff_entries", 31), "31 gate entries"),
            ("unet_sd2_sliced", lambda file: shift(file[width_gate], 0.5, 0), "gates of a sliced network are 0 or 1"),
            ("unet_sd2_sliced", replace(width_gate, np.zeros((2, 4), "f4")), "down_blocks.0.resnets.0 keeps none"),
            ("unet_sd2_sliced", remove("weights/conv_in.bias"), "weights/conv_in.bias"),
            ("inception_narrow", replace("inputs/image", np.zeros((1, 3, 74, 99), "f4")), "dimension 2 is 74, allowed 75 to 1024"),
            ("inception_narrow", replace("inputs/image", np.zeros((1, 1, 99, 99), "f4")), "inputs/image"),
            ("inception_narrow", replace("inputs/image", np.full((1, 3, 75, 75), bad)), "inputs/image: element 0 is not finite"),
            ("inception_narrow", attribute("folder", "nowhere"), "nowhere/config.json"),
            ("transport_b7_k3", attribute("eps", 0.0), "eps"),
            ("transport_b7_k3", attribute("iterations", -1), "iterations"),
            ("transport_b7_k3", attribute("iterations", "three"), "iterations"),
            ("contrastive_b2", replace("inputs/architecture", np.zeros((3, 4))), "inputs/architecture"),
            ("resource_log", attribute("form", "cubic"), "cubic"),
            ("resource_log", replace("inputs/ratio", np.zeros(9)), "more than 0"),
            ("gumbel_depth", replace("inputs/order", np.zeros(14, np.int64)), "inputs/order has entry 0 twice"),
            ("gumbel_depth", replace("inputs/order", np.full(14, 14)), "inputs/order: element 0 is 14"),
            ("prune_step_main", attribute("phase", "later"), "later"),
            ("prune_step_main", attribute("p", 0.01), "p = 0.01 cannot be reached"),
            ("prune_step_main", replace("inputs/timesteps", np.full(6, 1000)), "inputs/timesteps: element 0 is 1000"),
            ("prune_step_main", replace("inputs/codes", np.zeros((3, 495))), "inputs/codes"),
            ("bert_small", replace("inputs/input_ids", np.full((4, 13), 1 << 20)), "inputs/input_ids: element 0"),
            ("bert_small", replace("inputs/attention_mask", np.zeros((4, 13), np.int64)), "hides all tokens"),
            ("mpnet_small", replace("inputs/attention_mask", np.zeros((3, 141), np.int64)), "hides all tokens"),
            ("mpnet_small", replace("inputs/input_ids", np.full((3, 141), 1 << 20)), "inputs/input_ids: element 0"),
            ("wordpiece_small", replace("outputs/input_ids", np.zeros((560, 41), np.int64)), "41 tokens a text"),
            ("vae_old", replace("inputs/image", np.zeros((1, 1, 6, 9), np.float32)), "multiples of 2 up to 16384"),
            ("vae_old", replace("inputs/latent", np.zeros((1, 4, 3, 4), np.float32)), "inputs/latent"),
            ("vae_old", lambda file: file.create_dataset("outputs/tiled_mean", data=np.zeros((1, 5, 3, 5), "f4")),
             "tile_sample_min_size"),
            ("vae_odd", attribute("tile_sample_min_size", 18), "whole latents, of 4 pixels, are needed"),
            ("vae_odd", attribute("tile_overlap_factor", 0.3), "an overlap of 0.3 of them"),
            ("vae_odd", remove("outputs/tiled_logvar"), "outputs/tiled_logvar"),
            ("clip_text_quick", replace("inputs/input_ids", np.full((4, 9), 53)), "inputs/input_ids: element 0"),
            ("clip_text_quick", replace("inputs/input_ids", np.zeros((4, 12), np.int64)), "12 tokens, the model has 11 positions"),
            ("clip_text_quick", remove("inputs/target"), "inputs/target"),
            ("clip_bpe_small", replace("outputs/input_ids", np.zeros((2, 20), np.int64)), "outputs/input_ids"),
            ("clip_bpe_small", attribute("folder", "nowhere"), "neither tokenizer.json nor both of vocab.json and merges.txt"),
            ("pndm", attribute("steps", 1000), "steps"),
            ("pndm", attribute("steps", 24), "inputs/model_output"),
            ("pndm", attribute("prediction_type", "sample"), "sample"),
            ("ddim", attribute("model", "pndm"), "inputs/model_output"),  # one call more
            ("ddim", attribute("steps", 1000), "steps"),
            ("dpmpp", attribute("steps", 999), "steps"),
            ("dpmpp", remove("inputs/sample"), "inputs/sample"),
            ("frechet", replace("inputs/a", np.ones((1, 7))), "inputs/a: 1 rows of features, at least 2"),
            ("frechet", replace("inputs/a", np.full((3, 7), np.nan)), "inputs/a: element 0 is not finite"),
            ("frechet", replace("inputs/b", np.full((3, 7), 1e200)), "inputs/b: row 0, feature 0 is 1e+200"),
            ("frechet", replace("inputs/b", np.ones((3, 8))), "inputs/b"),
            ("frechet", replace("inputs/a", np.ones((2, 8193))), "2 rows of 8193 features"),
            ("resize_fid_up", attribute("mode", "fid"), "mode"),
            ("resize_fid_up", attribute("size", 0), "size"),
            ("resize_fid_up", attribute("size", 33), "outputs/image"),
            ("resize_fid_up", replace("inputs/image", np.zeros((1, 5, 7, 4), np.uint8)), "inputs/image"),
            ("resize_fid_up", replace("inputs/image", np.zeros((1, 0, 7, 3), np.uint8)), "1 pictures of 7 x 0 pixels"),
            ("resize_clip_folder", attribute("folder", "nowhere"), "nowhere: No such file"),
            ("clip_vision_whole", replace("inputs/pixel_values", np.zeros((5, 3, 15, 14), "f4")), "inputs/pixel_values"),
            ("cmmd", replace("inputs/b", np.zeros((3, 12))), "inputs/b: row 0 is all zeros"),
            ("cmmd", replace("inputs/a", np.ones((131073, 1))), "131073 rows of 1 features"),
            ("cmmd", remove("outputs/distance"), "outputs/distance"),
            ("text_to_image_wide", attribute("steps", 1000), "steps"),
            ("text_to_image_wide", attribute("guidance", -1.0), "guidance"),
            ("text_to_image_wide", replace("inputs/latents", np.zeros((4, 3, 6, 10), "f4")), "inputs/latents"),
            ("text_to_image_wide", replace("inputs/latents", np.zeros((4, 4, 1, 10), "f4")), "latents of 1 x 10"),
            ("text_to_image_wide", replace("inputs/latents", np.zeros((1, 4, 2, 2049), "f4")), "16384"),
            ("text_to_image_wide", replace("inputs/latents", np.zeros((1025, 4, 2, 2), "f4")), "1025 pictures, at most 1024"),
            ("text_to_image_wide", remove("inputs/negative_prompt"), "inputs/negative_prompt"),
            ("text_to_image_wide", replace("inputs/prompt", ["a red apple"] * 3), "inputs/prompt"),
            ("text_to_image_wide", replace("outputs/image", np.zeros((4, 48, 80, 1), "f4")), "outputs/image"),
            ("text_to_image_wide", attribute("folder", "unet_sd1"), "unet_sd1/model_index.json"),
        ]
        for name, change, message in cases:
            with self.subTest(name=name, message=message):
                self.expect(3, message, name, change)

    def test_broken_folders_are_refused(self):
        weights = "diffusion_pytorch_model.safetensors"

        def cut(folder):
            data = (folder / weights).read_bytes()
            (folder / weights).write_bytes(data[:-5])

        def set_key(old, new):
            def change(folder):
                text = (folder / "config.json").read_text()
                self.assertIn(old, text)
                (folder / "config.json").write_text(text.replace(old, new))
            return change

        cases = [
            (lambda folder: (folder / "config.json").unlink(), "config.json"),
            (lambda folder: (folder / weights).unlink(), weights),
            (cut, weights),
            (set_key('"act_fn": "silu"', '"act_fn": "gelu"'), "act_fn"),
            (set_key('"in_channels": 4', '"in_channels": 3'), "in"),
            # the memory of such a network is never asked for
            (set_key('"cross_attention_dim": 18', '"cross_attention_dim": 65536'), "65536"),
        ]
        for change, message in cases:
            with self.subTest(message=message):
                self.expect(3, message, "unet_sd1", folder_change=change)

    def test_broken_pipelines_are_refused(self):
        def remove(name):
            return lambda folder: (folder / name).unlink()

        def set_key(name, old, new):
            def change(folder):
                text = (folder / name).read_text()
                self.assertIn(old, text)
                (folder / name).write_text(text.replace(old, new))
            return change

        cases = [(remove(name), name) for name in ("model_index.json", "unet/config.json", "vae/config.json", "text_encoder/config.json",
                                                   "scheduler/scheduler_config.json")]
        cases += [
            (set_key("unet/config.json", '"in_channels": 4', '"in_channels": 5'), "in_channels 5, out_channels 4"),
            (set_key("unet/config.json", '"cross_attention_dim": 18', '"cross_attention_dim": 20'), "cross_attention_dim 20"),
            (set_key("scheduler/scheduler_config.json", '"scaled_linear"', '"linear"'), "beta_schedule"),
        ]
        for change, message in cases:
            with self.subTest(message=message):
                self.expect(3, message, "text_to_image_wide", folder_change=change)


if __name__ == "__main__":
    PROGRAM = Path(sys.argv.pop()).resolve() if len(sys.argv) > 1 else PROGRAM
    unittest.main()
