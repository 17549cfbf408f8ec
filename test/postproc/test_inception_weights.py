"""The tool that makes InceptionV3's weights readable: files that are not what it wants, and a machine without PyTorch.

Run with the Python of the virtual environment, which has no PyTorch: what needs it is tested where it is there. The conversion itself
is a part of test/reference/inception.py.
"""

import importlib.util
import json
import os
import pickle
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

POSTPROC = Path(__file__).resolve().parents[2] / "postproc"
sys.path.insert(0, str(POSTPROC))

import inception_weights  # noqa: E402

HAS_TORCH = importlib.util.find_spec("torch") and importlib.util.find_spec("safetensors")


class Tool(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)

    def run_tool(self, pickle_path, **environment):
        command = [sys.executable, POSTPROC / "inception_weights.py", pickle_path, self.folder / "out"]
        return subprocess.run(command, capture_output=True, text=True, env=dict(os.environ, **environment))

    def expect_refused(self, message, pickle_path, **environment):
        done = self.run_tool(pickle_path, **environment)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn(message, done.stderr)
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
        self.assertFalse((self.folder / "out").exists())


class WithoutPyTorch(Tool):
    def test_says_what_is_missing(self):
        (self.folder / "torch.py").write_text("raise ImportError('no torch here')\n")
        self.expect_refused("pip install torch safetensors", self.folder / "x.pth", PYTHONPATH=str(self.folder))

    def test_the_published_network(self):
        shapes = inception_weights.expected_shapes(1)
        self.assertEqual(len(shapes), 470)
        elements = 0
        for shape in shapes.values():
            count = 1
            for length in shape:
                count *= length
            elements += count
        self.assertEqual(elements, 21820000)  # pytorch-fid's state_dict without the classifier
        self.assertEqual(shapes["Mixed_6b.branch7x7dbl_4.conv.weight"], (128, 128, 7, 1))


@unittest.skipUnless(HAS_TORCH, "needs PyTorch and safetensors")
class WithPyTorch(Tool):
    def save(self, change=lambda state: None, divisor=16):
        """A file like the published one, narrow, then changed."""
        import torch

        generator = torch.Generator().manual_seed(3)
        state = {name: torch.rand(shape, generator=generator) for name, shape in inception_weights.expected_shapes(divisor).items()}
        state["fc.weight"], state["fc.bias"] = torch.rand(1008, 2048 // divisor), torch.rand(1008)
        state["Conv2d_1a_3x3.bn.num_batches_tracked"] = torch.tensor(0)
        change(state)
        torch.save(state, self.folder / "x.pth")
        return self.folder / "x.pth"

    def test_converts(self):
        from safetensors.torch import load_file

        done = self.run_tool(self.save())
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("NOT the published file", done.stdout)
        config = json.loads((self.folder / "out" / "config.json").read_text())
        self.assertEqual(config, {"model_type": "fid_inception_v3", "channels_divided_by": 16})
        tensors = load_file(self.folder / "out" / "model.safetensors")
        self.assertEqual({name: tuple(tensor.shape) for name, tensor in tensors.items()}, inception_weights.expected_shapes(16))

    def test_other_networks_are_refused(self):
        import torch

        name = "Mixed_7b.branch3x3_2a.conv.weight"
        self.expect_refused(f"1 missing ({name})", self.save(lambda state: state.pop(name)))
        self.expect_refused("1 that the network does not have (AuxLogits.fc.weight)",
                            self.save(lambda state: state.__setitem__("AuxLogits.fc.weight", torch.rand(3))))
        self.expect_refused(f"1 of another shape ({name} is [24, 24, 3, 1], not [24, 24, 1, 3])",
                            self.save(lambda state: state.__setitem__(name, state[name].transpose(2, 3))))
        self.expect_refused("missing", self.save(lambda state: state.clear()))

    def test_other_files_are_refused(self):
        import torch

        torch.save([1, 2], self.folder / "list.pth")
        self.expect_refused("not a table of named tensors", self.folder / "list.pth")
        (self.folder / "text.pth").write_text("not a pickle")
        self.expect_refused("not a file of weights alone", self.folder / "text.pth")
        self.expect_refused("No such file", self.folder / "nothing.pth")

    def test_code_in_a_pickle_is_not_run(self):
        marker = self.folder / "executed"

        class Hostile:
            def __reduce__(self):
                return os.mkdir, (str(marker),)

        (self.folder / "hostile.pth").write_bytes(pickle.dumps({"fc.weight": Hostile()}, protocol=2))
        self.expect_refused("not a file of weights alone", self.folder / "hostile.pth")
        self.assertFalse(marker.exists())


if __name__ == "__main__":
    result = unittest.main(argv=sys.argv[:1], exit=False, verbosity=1).result
    failed = len(result.failures) + len(result.errors)
    print(f"{result.testsRun - failed} passed, {failed} failed")
    sys.exit(0 if result.wasSuccessful() else 1)
