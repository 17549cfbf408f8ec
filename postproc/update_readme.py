"""Puts the generated references into README.md: update_readme.py PROGRAM README [--check]

Between the marks <!-- NAME --> and <!-- end --> goes what `PROGRAM --help TOPIC` prints. With --check nothing is written: exit 1
says that README is not what would be generated.
"""
import os
import re
import subprocess
import sys

TOPICS = {"keys": "keys", "files": "files-markdown"}


def updated(text, program):
    for mark, topic in TOPICS.items():
        printed = subprocess.run([program, "--help", topic], check=True, capture_output=True, text=True).stdout.strip()
        pattern = re.compile(rf"<!-- {mark} -->\n.*?<!-- end -->", re.DOTALL)
        if not pattern.search(text):
            sys.exit(f"README has no mark <!-- {mark} -->")
        text = pattern.sub(lambda _: f"<!-- {mark} -->\n{printed}\n<!-- end -->", text)
    return text


def main():
    program, readme = os.path.abspath(sys.argv[1]), sys.argv[2]
    with open(readme, encoding="utf-8") as stream:
        before = stream.read()
    after = updated(before, program)
    if "--check" in sys.argv:
        if after != before:
            sys.exit(f"{readme} is out of date: run `make readme`")
        return
    with open(readme, "w", encoding="utf-8") as stream:
        stream.write(after)


if __name__ == "__main__":
    main()
