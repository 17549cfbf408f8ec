"""The phase sample: what it writes; that a picture is the same bit for bit whatever the batch, the number of ranks and the other prompts
are; runs that are stopped or killed and go on; what it refuses.

Usage: test_sample.py APTP
"""
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import h5py  # noqa: E402
import numpy  # noqa: E402
from PIL import Image  # noqa: E402
from chain import DECKS, TIMEOUT, Chain, Checks, differences, environment  # noqa: E402

STOPPED, IMAGES = 75, 2
FIXTURES = pathlib.Path(__file__).resolve().parents[1] / "fixtures"
PATCH = 2  # pixels a Haar latent
NO_TEXT = '""'  # as a --set value
KILLS = 2


def text(values):
    return [value.decode() for value in values]


class Samples:
    """What a run left behind."""

    def __init__(self, chain):
        with h5py.File(chain.path("samples.h5")) as file:
            self.prompt, self.pixels = text(file["prompt"][()]), file["pixels"][()]
            self.expert, self.index, self.item, self.seed = (file[name][()] for name in ("expert", "index", "item", "seed"))
            self.group = text(file["group"][()]) if "group" in file else None
            self.words = {name: file[name][0].decode() for name in ("split", "model", "experts", "settings/sampler")}
            self.parents = text(file.attrs["parents"])

    def by_prompt(self):
        """Pixels by (prompt, index)."""
        return {(prompt, int(index)): pixels for prompt, index, pixels in zip(self.prompt, self.index, self.pixels)}


def clear(chain):
    shutil.rmtree(chain.path("samples"), ignore_errors=True)
    chain.remove("samples.h5", "samples.png")


def make(chain, settings=None, ranks=0):
    """A run from nothing."""
    clear(chain)
    chain.make("sample", ranks=ranks, settings=settings)
    return Samples(chain)


def png_texts(path):
    with Image.open(path) as picture:
        picture.load()
        return {key: str(value) for key, value in picture.text.items()}, numpy.asarray(picture)


def what_is_written(checks, chain):
    """Every file of a run, compared with the data, the assignment and each other."""
    samples = make(chain)
    with h5py.File(chain.path("data.h5")) as data, h5py.File(chain.path("assignment.h5")) as assignment:
        captions, groups = text(data["validation/caption"][()]), text(data["validation/group"][()])
        experts = assignment["validation/expert"][()]
    count = len(captions)
    checks.that(count >= 3 and samples.prompt == [caption for caption in captions for _ in range(IMAGES)], "the prompts are others")
    checks.that(samples.group == [group for group in groups for _ in range(IMAGES)], "the groups are others")
    checks.that(list(samples.expert) == [expert for expert in experts for _ in range(IMAGES)], "the experts are not those of assign")
    checks.that(list(samples.item) == [i for i in range(count) for _ in range(IMAGES)], f"items {samples.item}")
    checks.that(list(samples.index) == list(range(IMAGES)) * count and set(samples.seed) == {7}, "indices or seeds")
    checks.that(samples.words == {"split": "validation", "model": "routed", "experts": "sliced", "settings/sampler": "pndm"},
                f"settings {samples.words}")
    checks.that(samples.parents == ["data.h5", "router.h5", "teacher.h5"], f"parents {samples.parents}")
    checks.that(samples.pixels.shape == (count * IMAGES, 16, 16, 3) and samples.pixels.std() > 1, "there is nothing to see")
    checks.that(len({pixels.tobytes() for pixels in samples.pixels}) == count * IMAGES, "two pictures are the same")
    names = {f"{item:05}_{index}_expert{expert}.png" for item, index, expert in zip(samples.item, samples.index, samples.expert)}
    found = {path.name for path in chain.path("samples").iterdir()}
    checks.that(found == names, f"files {found}")
    for i in range(count * IMAGES):
        texts, pixels = png_texts(chain.path("samples") / f"{samples.item[i]:05}_{samples.index[i]}_expert{samples.expert[i]}.png")
        checks.that((pixels == samples.pixels[i]).all(), f"pixels of picture {i} differ")
        expected = {"prompt": samples.prompt[i], "seed": "7", "index": str(samples.index[i]), "expert": str(samples.expert[i])}
        checks.that(expected.items() <= texts.items() and "pndm, 3 steps, guidance 3" in texts["settings"], f"picture {i} says {texts}")
    with Image.open(chain.path("samples.png")) as sheet:  # a row a prompt, pictures twice as large, 4 pixels apart
        pixels = numpy.asarray(sheet)
        checks.that(pixels.shape == (4 + 36 * count, 4 + 36 * IMAGES, 3), f"a sheet of {pixels.shape}")
        checks.that((pixels[4 + 36:4 + 68:2, 4:36:2] == samples.pixels[IMAGES]).all(), "the second row is not the second prompt")
    return samples


def nothing_changes_a_picture(checks, chain, whole):
    """Batches, ranks, a part of the prompts, another order, text instead of stored token states."""
    shutil.copy(chain.path("samples.h5"), chain.path("whole.h5"))
    for ranks, batch in (0, 1), (0, 3), (0, 8), (2, 4), (4, 3):
        make(chain, {"sample.batch": batch}, ranks)
        found = differences(chain.path("whole.h5"), chain.path("samples.h5"))
        checks.that(not found, f"{ranks} ranks, batches of {batch}:\n" + "\n".join(found))

    first = make(chain, {"sample.limit": 2, "sample.images": 1})
    checks.that(first.prompt == whole.prompt[::IMAGES][:2] and (first.pixels == whole.pixels[::IMAGES][:2]).all(), "sample.limit")

    expected = whole.by_prompt()
    captions = whole.prompt[::IMAGES]
    lines = [captions[2], "a prompt that was never seen", "", captions[0], "   ", "cafe\u0301 \u20ac", captions[1]]
    chain.path("prompts.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    by_text = {"sample.split": NO_TEXT, "sample.prompts": "prompts.txt"}
    for ranks in 0, 2:
        samples = make(chain, by_text, ranks)
        wanted = [line for line in lines if line.strip()]
        checks.that(samples.prompt[::IMAGES] == wanted, f"prompts {samples.prompt}")
        checks.that(list(samples.item[::IMAGES]) == [0, 1, 3, 5, 6], f"items are lines, not {samples.item}")
        checks.that(samples.group is None and samples.parents == ["router.h5", "teacher.h5"] and samples.words["split"] == "", "provenance")
        for key, pixels in samples.by_prompt().items():
            if key in expected:
                checks.that((pixels == expected[key]).all(), f"{key} is another picture from text, {ranks} ranks")
    by_file = samples

    clear(chain)
    command = chain.command("sample", settings={"sample.split": NO_TEXT, "sample.prompts": "-"})
    result = subprocess.run(command, cwd=chain.folder, env=environment(), input="\n".join(lines), capture_output=True, text=True,
                            timeout=TIMEOUT)
    checks.that(result.returncode == 0, f"standard input: {result.stdout}{result.stderr}")
    checks.that((Samples(chain).pixels == by_file.pixels).all(), "standard input gives other pictures")
    listed = make(chain, {"sample.split": NO_TEXT, "sample.prompt_list": f'["{captions[1]}"]'})
    checks.that(all((listed.pixels[i] == expected[captions[1], i]).all() for i in range(IMAGES)), "sample.prompt_list")


def other_settings(checks, chain, whole):
    """Each has its effect, and the same files say so."""
    teacher = make(chain, {"sample.model": "teacher"})
    checks.that(set(teacher.expert) == {-1} and teacher.parents == ["data.h5", "teacher.h5"] and teacher.words["experts"] == "",
                f"the teacher: {teacher.expert}, {teacher.parents}")
    checks.that(chain.path("samples/00000_1_teacher.png").exists(), "no picture of the teacher")
    checks.that(png_texts(chain.path("samples/00000_1_teacher.png"))[0]["expert"] == "teacher", "the teacher's PNG")
    sheet = chain.path("samples.png").read_bytes()
    chain.make("sample", settings={"sample.model": "teacher", "sample.limit": 1, "files.samples": "teacher_samples.h5"})
    checks.that(chain.path("teacher_samples.png").exists() and chain.path("samples.png").read_bytes() == sheet,
                "the sheet of teacher_samples.h5 is not beside it")
    one = [make(chain, {"sample.model": "expert", "sample.expert": k}) for k in range(3)]
    checks.that(all(set(samples.expert) == {k} for k, samples in enumerate(one)), "sample.expert")
    for i, expert in enumerate(whole.expert):
        checks.that((one[expert].pixels[i] == whole.pixels[i]).all(), f"picture {i} is another one where every prompt has expert {expert}")
    made = {"teacher": teacher, "experts": one[0], "whole": whole}
    for sampler in "ddim", "dpmpp":
        made[sampler] = make(chain, {"sample.sampler": sampler})
        checks.that(made[sampler].words["settings/sampler"] == sampler, "settings/sampler")
    made["guidance"] = make(chain, {"sample.guidance": 1.5})
    made["negative"] = make(chain, {"sample.negative_prompt": "a green disc"})
    made["seed"] = make(chain, {"run.seed": 8})
    kinds = {samples.pixels.tobytes() for samples in made.values()}
    checks.that(len(kinds) == len(made), "two settings give the same pictures")
    wide = make(chain, {"sample.height": 6, "sample.width": 11, "sample.images": 1})
    checks.that(wide.pixels.shape[1:] == (6 * PATCH, 11 * PATCH, 3), f"6 x 11 latents give pictures of {wide.pixels.shape}")


def finetuned_experts(checks, chain):
    """Experts that were trained with steps of nothing sample what the sliced ones do."""
    if "finetune" not in DECKS:
        return
    sliced = make(chain)
    chain.make("finetune", settings={"finetune.learning_rate": 1e-15, "finetune.steps": 1, "finetune.ema_decay": 0})
    finetuned = make(chain, {"sample.experts": "finetuned"})
    checks.that((finetuned.pixels == sliced.pixels).all() and finetuned.words["experts"] == "finetuned", "finetuned experts that did not move")
    used = [f"expert_{k:02}.h5" for k in sorted(set(finetuned.expert))]
    checks.that(finetuned.parents == ["data.h5", "router.h5", *used], f"parents {finetuned.parents}")


def pictures(chain):
    """Names and times of the PNGs."""
    folder = chain.path("samples")
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.png")} if folder.exists() else {}


def finish(checks, chain, settings, name, ranks=0):
    """Goes on to the end; pictures that were there are not made again, and the file is that of a run that was never stopped."""
    before = pictures(chain)
    result = chain.run("sample", settings=settings, ranks=ranks)
    if checks.that(result.returncode == 0, f"after {name}: exit code {result.returncode}\n{result.stdout}"):
        found = differences(chain.path("whole.h5"), chain.path("samples.h5"))
        checks.that(not found, f"after {name}: " + "\n".join(found))
    after = pictures(chain)
    checks.that(all(after[picture] == when for picture, when in before.items()), f"after {name}: pictures were made again")
    checks.that(not list(chain.path("samples").glob("*.partial")), f"after {name}: partial files are left")


def restarts(checks, chain, generator):
    settings = {"sample.images": 8, "sample.batch": 2, "sample.steps": 6}
    whole = make(chain, settings)
    total = len(whole.prompt)
    shutil.copy(chain.path("samples.h5"), chain.path("whole.h5"))
    finish(checks, chain, settings, "a finished run")

    clear(chain)
    chain.path("stop").touch()
    result = chain.run("sample", settings=settings)
    checks.that(result.returncode == STOPPED and f"stopped by file stop with {total - 2} of {total} pictures left" in result.stdout,
                f"file stop: exit code {result.returncode}\n{result.stdout}")
    checks.that(len(pictures(chain)) == 2 and not chain.path("samples.h5").exists(), "a stopped run left other files")
    finish(checks, chain, settings, "a file stop", ranks=2)

    clear(chain)
    result = chain.run("sample", ranks=2, settings={**settings, "run.wall_clock_limit": 0.001})
    checks.that(result.returncode == STOPPED and len(pictures(chain)) == 4, f"wall-clock limit: {result.returncode}\n{result.stdout}")
    finish(checks, chain, settings, "the wall-clock limit")

    clear(chain)
    for _ in range(KILLS):
        have, began = len(pictures(chain)), time.monotonic()
        process = chain.start("sample", settings=settings)
        wanted = have + generator.randrange(1, total // (KILLS + 1))
        while process.poll() is None and len(pictures(chain)) < wanted and time.monotonic() - began < TIMEOUT:
            time.sleep(0.002)
        time.sleep(generator.random() * 0.02)
        process.kill()
        process.communicate(timeout=TIMEOUT)
    checks.that(0 < len(pictures(chain)) < total, f"killed with {len(pictures(chain))} of {total} pictures made")
    for left in chain.path("samples").glob("*.partial"):
        print(f"note: killed while writing {left.name}")
    finish(checks, chain, settings, "kill -9")

    # what is broken, or was made with other settings, is made anew
    first, second = sorted(chain.path("samples").glob("*.png"))[:2]
    first.write_bytes(first.read_bytes()[:-20])
    second.write_bytes(b"")
    chain.make("sample", settings=settings)
    checks.that(not differences(chain.path("whole.h5"), chain.path("samples.h5")), "a broken picture was not made anew")
    chain.make("sample", settings={**settings, "sample.guidance": 1.5})
    same = [(pixels == old).all() for pixels, old in zip(Samples(chain).pixels, whole.pixels)]
    checks.that(not any(same), f"{sum(same)} pictures of another guidance were taken")
    chain.make("sample", settings=settings)
    checks.that(not differences(chain.path("whole.h5"), chain.path("samples.h5")), "pictures of another guidance were kept")


def refusals(checks, chain):
    """Each with its message and exit code, and nothing is written."""
    clear(chain)
    chain.path("bad.txt").write_bytes(b"a red disc\n\nbad \xff\xfe bytes\n")
    chain.path("long.txt").write_text("a" * 8193)
    chain.path("blank.txt").write_text("\n  \n")
    text_prompts = {"sample.split": NO_TEXT}
    shutil.copytree(FIXTURES / "bert_small", chain.path("other_encoder"))
    chain.path("other_encoder/tokenizer.json").unlink()  # or the vocabulary would be its
    words = chain.path("other_encoder/vocab.txt").read_text().split("\n")
    chain.path("other_encoder/vocab.txt").write_text("\n".join([*words[:-3], words[-2], words[-3], words[-1]]))
    cases = (
        ({"sample.split": "test"}, 2, 'sample.split is "test", allowed: train, validation'),
        ({"sample.prompts": "bad.txt"}, 2, "more than one of sample.split, sample.prompts and sample.prompt_list give the prompts"),
        ({"sample.split": NO_TEXT, "sample.prompts": "-", "sample.prompt_list": '["a"]'}, 2, "more than one of sample.split"),
        (text_prompts, 2, "none of sample.split, sample.prompts and sample.prompt_list gives the prompts"),
        ({**text_prompts, "sample.prompt_list": '["a", ""]'}, 2, "sample.prompt_list: item 2 is empty"),
        ({**text_prompts, "sample.prompts": "bad.txt"}, 3, "bad.txt:3: byte 5 (0xff) is not UTF-8"),
        ({**text_prompts, "sample.prompts": "long.txt"}, 3, "long.txt:1: a prompt of 8193 bytes, at most 8192 are allowed"),
        ({**text_prompts, "sample.prompts": "blank.txt"}, 3, "blank.txt has no prompt"),
        ({**text_prompts, "sample.prompts": "none.txt"}, 3, "none.txt: cannot be opened"),
        ({**text_prompts, "sample.prompts": "bad.txt", "data.sentence_encoder": NO_TEXT}, 2, "which data.sentence_encoder must encode"),
        ({"sample.negative_prompt": "a", "data.sentence_encoder": NO_TEXT}, 2, "sample.negative_prompt is text"),
        ({**text_prompts, "sample.prompt_list": '["a"]', "data.sentence_encoder": "other_encoder"}, 3, "different text encoders"),
        ({"sample.negative_prompt": "a", "data.sentence_encoder": "other_encoder"}, 3, "different text encoders"),
        ({"sample.model": "expert", "sample.expert": 3}, 2, "sample.expert is 3, ./router.h5 has experts 0 to 2"),
        ({"sample.model": "expert", "sample.expert": 1, "sample.experts": "finetuned", "files.expert": "gone"}, 3,
         "gone_01.h5 is missing: make it with phase finetune"),
        ({"sample.height": 1}, 3, "latents of 1 x 8 for a UNet of 2 levels: 2 to 16384 allowed"),
        ({"sample.sampler": "dpmpp", "sample.steps": 999}, 2, "sample.steps is 999, this sampler takes at most 998"),
        ({"files.router": "none.h5"}, 3, "none.h5"),
        ({"files.teacher": "other_teacher.h5"}, 3, "other_teacher.h5"),
    )
    chain.make("pretrain", settings={"files.teacher": "other_teacher.h5", "pretrain.steps": 1, "run.folder": "other", "files.data": "./data.h5"})
    shutil.move(chain.path("other/other_teacher.h5"), chain.path("other_teacher.h5"))
    for settings, code, message in cases:
        result = chain.run("sample", settings=settings)
        checks.that(result.returncode == code and message in result.stdout,
                    f"{settings}: exit code {result.returncode}, expected {code} and '{message}':\n{result.stdout}")
    checks.that(not pictures(chain) and not chain.path("samples.h5").exists(), "a refused run has written")
    result = chain.run("sample", ranks=2, settings={"run.log": "normal", "sample.batch": 3}, arguments=["--check"])
    count = len(captions_of(chain)) * IMAGES
    share = [min(3, (count - 6 * r + 1) // 2) for r in range((count + 5) // 6)]  # of the larger share of a round; the other is the rest
    calls = sum(4 * ((mine + 1) // 2 + (min(6, count - 6 * r) - mine + 1) // 2) for r, mine in enumerate(share))
    checks.that(result.returncode == 0 and f"{calls} calls of the UNet" in result.stdout and "planned memory" in result.stdout,
                f"--check, {calls} calls expected: {result.stdout}")
    checks.that(not chain.path("samples").exists(), "--check has written")


def full_disks_and_broken_files(checks, chain):
    """A disk that is full at a picture and at the end; an input that only one rank finds broken. No hang, one message."""
    for limit, ranks, name in (300, 2, "samples/"), (3000, 0, "./samples."):
        clear(chain)
        result = chain.run("sample", ranks=ranks, file_limit=limit)
        checks.that(result.returncode == 4 and result.stdout.count("aptp: error:") == 1 and name in result.stdout,
                    f"files of at most {limit} bytes: exit code {result.returncode}\n{result.stdout}")
        checks.that(not chain.path("samples.h5").exists() and not list(chain.folder.rglob("*.partial")), "something half-written is left")
    made = pictures(chain)
    checks.that(len(made) == IMAGES * len(captions_of(chain)), "pictures are missing before the disk is full")
    chain.make("sample")
    checks.that(pictures(chain) == made, "pictures were made again after a full disk")
    clear(chain)
    good = chain.path("data.h5").read_bytes()
    with h5py.File(chain.path("data.h5")) as data:
        last = data["validation/text_states"].id.get_chunk_info(data["validation/text_states"].id.get_num_chunks() - 1)
    broken = bytearray(good)
    broken[last.byte_offset + last.size - 8] ^= 1  # of the last rows, which the first rank does not read
    chain.path("data.h5").write_bytes(broken)
    result = chain.run("sample", ranks=2, settings={"sample.batch": 1})
    checks.that(result.returncode == 3 and result.stdout.count("aptp: error:") == 1 and "validation/text_states" in result.stdout,
                f"a broken chunk: exit code {result.returncode}\n{result.stdout}")
    chain.path("data.h5").write_bytes(good)


def captions_of(chain):
    with h5py.File(chain.path("data.h5")) as data:
        return text(data["validation/caption"][()])


def main():
    checks, generator = Checks(), random.Random(5)
    with tempfile.TemporaryDirectory() as folder:
        chain = Chain(sys.argv[1], folder)
        chain.make("prepare", "pretrain", "prune", "assign")
        whole = what_is_written(checks, chain)
        nothing_changes_a_picture(checks, chain, whole)
        other_settings(checks, chain, whole)
        finetuned_experts(checks, chain)
        restarts(checks, chain, generator)
        refusals(checks, chain)
        full_disks_and_broken_files(checks, chain)
    checks.end()


if __name__ == "__main__":
    main()
