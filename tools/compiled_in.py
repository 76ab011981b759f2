#!/usr/bin/env python3
"""Says which build compiles a source file.

    printf 'src/a.cpp\\n' | python3 tools/compiled_in.py build build-cuda

Reads paths, one a line, and prints "BUILD PATH" with the first of the given build directories whose
compile_commands.json has the file. Files of none are listed on standard error.
"""

import json
import pathlib
import sys


def main(builds):
    compiled = {}
    for build in builds:
        commands = pathlib.Path(build, "compile_commands.json")
        if not commands.is_file():
            sys.exit(f"compiled_in: {commands} does not exist: configure {build} with CMake first")
        for entry in json.loads(commands.read_text()):
            compiled.setdefault(str(pathlib.Path(entry["directory"], entry["file"]).resolve()), build)
    for path in sys.stdin.read().split():
        build = compiled.get(str(pathlib.Path(path).resolve()))
        if build is None:
            print(f"not compiled in {' or '.join(builds)}, so not checked: {path}", file=sys.stderr)
        else:
            print(build, path)


if __name__ == "__main__":
    main(sys.argv[1:])
