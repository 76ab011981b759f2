#!/usr/bin/env python3
"""Says by which compilations of which builds source files are read.

    printf 'src/a.cpp\\n' | python3 tools/compiled_in.py build build-cuda

Reads paths, one a line, and prints "BUILD PATH" lines that together read each of them, by the first of the given build
directories whose compile_commands.json has the file: the file itself, or the batch of sources that includes it
(CMAKE_UNITY_BUILD), with the rest of the batch. Files of none are listed on standard error.
"""

import json
import pathlib
import re
import sys


def sources_of(compiled):
    """The sources that a compiled file consists of."""
    if compiled.parent.name != "Unity":
        return {compiled}
    return {pathlib.Path(name).resolve() for name in re.findall(r'^#include "(.*)"', compiled.read_text(), re.MULTILINE)}


def main(builds):
    left = {pathlib.Path(path).resolve(): path for path in sys.stdin.read().split()}
    for build in builds:
        commands = pathlib.Path(build, "compile_commands.json")
        if not commands.is_file():
            sys.exit(f"compiled_in: {commands} does not exist: configure {build} with CMake first")
        for entry in json.loads(commands.read_text()):
            compiled = pathlib.Path(entry["directory"], entry["file"]).resolve()
            read = left.keys() & sources_of(compiled)
            if read:
                print(build, compiled)
                for source in read:
                    del left[source]
    for path in left.values():
        print(f"not compiled in {' or '.join(builds)}, so not checked: {path}", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
