#!/usr/bin/env python3
"""Checks the rules of the house that a compiler does not know.

    python3 tools/check_layers.py [ROOT]

- Includes between the rooms of src/ point downward only, and name files that exist.
- No source file is longer than a sitting.
- Every op has its header, a test and a benchmark beside it.
"""

import pathlib
import re
import sys

# Room -> rooms that it may include, itself apart.
BELOW = {
    "base": set(),
    "device": {"base"},
    "ops": {"device", "base"},
    "comm": {"device", "base"},
    "moe": {"ops", "comm", "device", "base"},
    "model": {"moe", "ops", "comm", "device", "base"},
    "data": {"base"},
    "plan": {"model", "moe", "ops", "base"},
    "train": {"model", "moe", "ops", "comm", "device", "data", "base"},
    "cli": {"train", "model", "moe", "ops", "comm", "device", "data", "plan", "base"},
}
MAX_LINES = 500  # the hard bound; past 400 a file should ask itself what second thing it does
SOURCES = (".h", ".cpp", ".cu", ".py", ".sh")
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"')


def check_includes(root, problems):
    src = root / "src"
    for path in sorted(src.rglob("*")):
        if path.suffix not in (".h", ".cpp", ".cu"):
            continue
        room = path.relative_to(src).parts[0]
        if room not in BELOW:
            problems.append(f"{path.relative_to(root)}: room '{room}' is not known to tools/check_layers.py")
            continue
        is_check = path.stem.endswith(("_test", "_bench", "_case", "_cases"))  # these may use tests/ and bench/ as well
        for number, line in enumerate(path.read_text().splitlines(), 1):
            match = INCLUDE.match(line)
            if not match:
                continue
            included = match.group(1)
            where = f"{path.relative_to(root)}:{number}"
            if is_check and any((root / base / included).is_file() for base in ("tests", "bench", ".")):
                continue
            if not (src / included).is_file():
                problems.append(f'{where}: "{included}" is no file under src/ (includes are written from there)')
                continue
            target = pathlib.PurePath(included).parts[0]
            if target != room and target not in BELOW[room]:
                problems.append(f"{where}: {room} must not include {target} (only {sorted(BELOW[room])})")


def check_lengths(root, problems):
    for folder in ("src", "tests", "bench", "tools"):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in SOURCES:
                lines = len(path.read_text().splitlines())
                if lines > MAX_LINES:
                    problems.append(f"{path.relative_to(root)}: {lines} lines, at most {MAX_LINES}")


def check_ops(root, problems):
    for folder in sorted((root / "src" / "ops").iterdir()):
        if not folder.is_dir():
            continue
        name = folder.name
        for what, pattern in (("header", f"{name}.h"), ("test", "*_test.cpp"), ("benchmark", "*_bench.cpp")):
            if not list(folder.glob(pattern)):
                problems.append(f"src/ops/{name}: no {what} ({pattern})")


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent).resolve()
    problems = []
    check_includes(root, problems)
    check_lengths(root, problems)
    check_ops(root, problems)
    for problem in problems:
        print(problem)
    print(f"check_layers: {len(problems)} problem(s)" if problems else "check_layers: the house is in order")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
