"""jobs/phase.slurm and jobs/chain.sh with programs of the same names in the place of Slurm's and of mpirun, which write down how they
were called: dependencies, job arrays, requeueing on status 75, the status that is passed on.
"""
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import unittest

JOBS = pathlib.Path(__file__).resolve().parents[2] / "jobs"
PATIENCE = 60  # seconds for what takes a moment
# Each writes its arguments as one line of the file named after it.
RECORD = '#!/bin/bash\nprintf "%q " "$@" >> "$RECORDS/{name}"; echo >> "$RECORDS/{name}"\n'
FAKES = {
    # Job numbers 101, 102, ...; the submission numbered $FAIL_AT fails.
    "sbatch": 'number=$(wc -l < "$RECORDS/sbatch")\n[ "$number" != "$FAIL_AT" ] || { echo "sbatch: error" >&2; exit 1; }\necho "$((100 + number))$CLUSTER"\n',
    "scontrol": "",
    # Ends with $STATUS; with "wait" instead only when it is told, with 75 as the program does.
    "mpirun": 'echo "$PWD $OMP_NUM_THREADS" > "$RECORDS/place"\n[ "$STATUS" = wait ] || exit "$STATUS"\ntrap "exit 75" USR1\ntouch "$RECORDS/running"\n'
              'for i in $(seq 6000); do sleep 0.01; done\n',
}


class Jobs(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = pathlib.Path(temporary.name)
        (self.folder / "bin").mkdir()
        self.decks = self.folder / "decks"
        self.decks.mkdir()
        for name, text in FAKES.items():
            program = self.folder / "bin" / name
            program.write_text(RECORD.format(name=name) + text)
            program.chmod(0o755)
        for phase in ("prune", "assign", "finetune", "sample", "evaluate"):
            (self.decks / f"{phase}.cfg").write_text(f'phase = "{phase}";\n')
        (self.decks / "prune.cfg").write_text('phase = "prune";\nrouter: {\n    // experts = 9;\n    experts = 3; // three\n};\n')
        self.environment = {**os.environ, "PATH": f"{self.folder}/bin:{os.environ['PATH']}", "RECORDS": str(self.folder), "SLURM_JOB_ID": "4711",
                            "SLURM_SUBMIT_DIR": str(self.folder), "SLURM_CPUS_PER_TASK": "16", "STATUS": "0"}
        self.environment.pop("SLURM_ARRAY_TASK_ID", None)

    def calls(self, name: str) -> list[list[str]]:
        path = self.folder / name
        return [shlex.split(line) for line in path.read_text().splitlines()] if path.exists() else []

    def phase(self, *arguments, **variables) -> int:
        return subprocess.run(["bash", JOBS / "phase.slurm", *arguments], env={**self.environment, **variables}, timeout=PATIENCE).returncode

    def chain(self, *arguments, **variables) -> subprocess.CompletedProcess:
        return subprocess.run(["sh", JOBS / "chain.sh", *map(str, arguments)], env={**self.environment, **variables}, capture_output=True, text=True,
                              timeout=PATIENCE)

    def test_a_phase(self):
        self.assertEqual(self.phase("input/prune.cfg", "--set", "prune.steps=5"), 0)
        self.assertEqual(self.calls("mpirun"), [["--bind-to", "none", "./aptp", "input/prune.cfg", "--set", "prune.steps=5"]])
        self.assertEqual((self.folder / "place").read_text().split(), [str(self.folder.resolve()), "16"])
        self.assertEqual(self.calls("scontrol"), [])

    def test_status_is_passed_on(self):
        for status in (1, 2, 137):
            self.assertEqual(self.phase("input/prune.cfg", STATUS=str(status)), status)
        self.assertEqual(self.calls("scontrol"), [])

    def test_status_75_queues_it_again(self):
        self.assertEqual(self.phase("input/prune.cfg", STATUS="75"), 75)
        self.assertEqual(self.calls("scontrol"), [["requeue", "4711"]])

    def test_the_signal_reaches_the_program(self):
        job = subprocess.Popen(["bash", JOBS / "phase.slurm", "input/prune.cfg"], env={**self.environment, "STATUS": "wait"})
        try:
            end = time.monotonic() + PATIENCE
            while not (self.folder / "running").exists() and time.monotonic() < end:
                time.sleep(0.01)
            job.send_signal(signal.SIGUSR1)
            self.assertEqual(job.wait(PATIENCE), 75)
        finally:
            job.kill()
        self.assertEqual(self.calls("scontrol"), [["requeue", "4711"]])

    def test_a_task_of_an_array_trains_its_expert(self):
        self.assertEqual(self.phase("input/finetune.cfg", SLURM_ARRAY_TASK_ID="2"), 0)
        self.assertEqual(self.calls("mpirun")[0][2:], ["./aptp", "input/finetune.cfg", "--set", "finetune.expert=2"])

    def test_dependencies_of_the_chain(self):
        run = self.chain(self.decks, "--set", "run.folder=a folder", CLUSTER=";cluster")
        self.assertEqual((run.returncode, run.stderr), (0, ""))
        expected = []
        for number, phase in enumerate(("prune", "assign", "finetune", "sample", "evaluate")):
            expected.append(["--parsable", f"--job-name=aptp-{phase}", "--kill-on-invalid-dep=yes", *[f"--dependency=afterok:{100 + number}"] * (number > 0),
                             *["--array=0-2"] * (phase == "finetune"), "jobs/phase.slurm", f"{self.decks}/{phase}.cfg", "--set", "run.folder=a folder"])
        self.assertEqual(self.calls("sbatch"), expected)
        self.assertIn("evaluate: job 105\n", run.stdout)

    def test_number_of_experts(self):
        self.assertEqual(self.chain("-k", 8, self.decks).returncode, 0)
        self.assertIn("--array=0-7", self.calls("sbatch")[2])
        (self.folder / "sbatch").unlink()
        for deck, array in (("router: { experts = 1; };", "0-0"), ('prune: { method = "single"; };\nrouter: { experts = 4; };', "0-0"),
                            ('prune: {\n    method = "aptp"; // or "single";\n};\nrouter: { experts = 4; };', "0-3")):
            (self.decks / "prune.cfg").write_text(deck + "\n")
            self.assertEqual(self.chain(self.decks).returncode, 0)
            self.assertIn(f"--array={array}", self.calls("sbatch")[2])
            (self.folder / "sbatch").unlink()

    def test_nothing_is_submitted_when_something_is_wrong(self):
        (self.decks / "prune.cfg").write_text('base = "../prune.cfg";\n')
        other = self.folder / "other"
        other.mkdir()
        for arguments, words in (([], "no folder of decks"), ([self.decks], "does not say how many experts"), ([other], "prune.cfg is missing"),
                                 (["-k"], "-k needs a number"), (["-k", "0", self.decks], "'0' experts"), (["-k", "3a", self.decks], "'3a' experts")):
            run = self.chain(*arguments)
            self.assertEqual(run.returncode, 2, arguments)
            self.assertIn(words, run.stderr)
        self.assertEqual(self.calls("sbatch"), [])

    def test_a_submission_that_fails_ends_the_chain(self):
        self.assertEqual(self.chain(self.decks, FAIL_AT="2").returncode, 1)
        self.assertEqual(len(self.calls("sbatch")), 2)


if __name__ == "__main__":
    result = unittest.main(argv=sys.argv[:1], exit=False, verbosity=1).result
    failed = len(result.failures) + len(result.errors)
    print(f"{result.testsRun - failed} passed, {failed} failed")
    sys.exit(0 if result.wasSuccessful() else 1)
