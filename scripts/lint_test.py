#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""lint_test - each rule of scripts/lint catches its offence, lets the clean file pass, and can be
waived with a reason only. A table of small trees; every row is one TAP point."""

import sys
import tempfile
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

LOADER = SourceFileLoader("lint", str(Path(__file__).resolve().parent / "lint"))
lint = module_from_spec(spec_from_loader("lint", LOADER))
LOADER.exec_module(lint)

SPDX = "/* SPDX-License-Identifier: Apache-2.0 */\n"
ESSAY = "/*\n" + " * A word about why.\n" * 10 + " */\n"
BODY = "\tx++;\n"
DRIVER = '\t.schemes = (const char *const[]){ "x", NULL },\n'


def function(lines, before=""):
    return f"{before}void f(void)\n{{\n{BODY * (lines - 2)}}}\n"


# name, rule, {file: text}, a piece of the expected offence ("" = none)
TABLE = [
    ("an arrow that points back", "includes",
     {"src/base/a.c": '#include "device/io.h"\n', "src/device/io.h": ""}, "base may not include"),
    ("an arrow that points down", "includes",
     {"src/device/a.c": '#include "base/err.h"\n', "src/base/err.h": ""}, ""),
    ("nexus does not see pool", "includes",
     {"src/nexus/a.c": '#include "pool/p.h"\n', "src/pool/p.h": ""}, "nexus may not include"),
    ("the root does not see the cli", "includes",
     {"src/engine.c": '#include "cli/c.h"\n', "src/cli/c.h": ""}, "root may not include"),
    ("the target does not see the root", "includes",
     {"src/target/t.c": '#include "engine.h"\n', "src/engine.h": ""}, "target may not include"),
    ("a folder without a row", "includes",
     {"src/misc/m.c": '#include "base/err.h"\n', "src/base/err.h": ""}, "no row in the table"),
    ("an include not written from src", "includes",
     {"src/base/a.c": '#include "err.h"\n', "src/base/err.h": ""}, "no file below src/"),
    ("a unit test may look up", "includes",
     {"src/base/a_test.c": '#include "device/io.h"\n', "src/device/io.h": ""}, ""),
    ("a public header that shows the inside", "includes",
     {"include/ashlar/a.h": '#include "base/err.h"\n'}, "a public header may not"),
    ("an include in a comment", "includes",
     {"src/base/a.c": '/*\n * see #include "device/io.h"\n */\n'}, ""),
    ("a header that needs another", "headers", {"src/base/a.h": "uint32_t f(void);\n"}, "alone"),
    ("a header that brings its own", "headers",
     {"src/base/a.h": "#include <stdint.h>\nuint32_t f(void);\n"}, ""),
    ("a function of 71 lines", "function-length", {"src/base/a.c": function(71)}, "71 lines"),
    ("a function of 70 lines", "function-length", {"src/base/a.c": function(70)}, ""),
    ("a long function, waived", "function-length",
     {"src/base/a.c": function(90, "/* lint: allow function-length: one table. */\n")}, ""),
    ("a long function, waived without a reason", "function-length",
     {"src/base/a.c": function(90, "/* lint: allow function-length */\n")}, "90 lines"),
    ("a brace in a string", "function-length",
     {"src/base/a.c": 'void f(void)\n{\n\tputs("\\\n}\\\n");\n' + BODY * 70 + "}\n"}, "lines"),
    ("a file of 1,201 lines", "file-length", {"src/base/a.c": "\n" * 1201}, "1201 lines"),
    ("a line of 101 columns", "line-length", {"src/base/a.c": "\t" + "x" * 93 + "\n"}, "101"),
    ("a line of 100 columns", "line-length", {"src/base/a.c": "\t" + "x" * 92 + "\n"}, ""),
    ("a space at the end", "whitespace", {"src/base/a.c": "int x; \n"}, "white space"),
    ("no newline at the end", "whitespace", {"src/base/a.c": "int x;"}, "no newline"),
    ("no essay", "essay", {"src/base/a.c": SPDX + "/* Short. */\nint x;\n"}, "1 lines of essay"),
    ("a short essay over much code", "essay",
     {"src/base/a.c": SPDX + "/*\n" + " * Words.\n" * 5 + " */\n" + "int x;\n" * 80},
     "7 lines of essay"),
    ("a short essay over little code", "essay",
     {"src/base/a.c": SPDX + "/*\n" + " * Words.\n" * 5 + " */\nint x;\n"}, ""),
    ("an essay", "essay", {"src/base/a.c": SPDX + ESSAY + "int x;\n"}, ""),
    ("an essay below the code", "essay",
     {"src/base/a.c": SPDX + "int x;\n" + ESSAY}, "0 lines of essay"),
    ("a test without essay", "essay", {"src/base/a_test.c": SPDX + "int x;\n"}, ""),
    ("no licence", "licence", {"src/base/a.c": "int x;\n"}, "SPDX"),
    ("a licence", "licence", {"src/base/a.c": SPDX}, ""),
    ("a reminder", "leftovers", {"src/base/a.c": "/* TO" + "DO: later */\n"}, "leftover"),
    ("a machine's path", "words", {"docs/a.md": "see /ho" + "me/me/x\n"}, "not to be found"),
    ("a banned call", "calls", {"src/base/a.c": "\tusleep(9);\n"}, "usleep"),
    ("a banned name in a comment", "calls", {"src/base/a.c": "/* not sleep(1) */\n"}, ""),
    ("a longer name", "calls", {"src/base/a.c": "\ttask_sleep(1);\n\tops->sleep(1);\n"}, ""),
    ("a driver without page", "drivers",
     {"src/drivers/x.c": DRIVER, "tests/x.py": "x://"}, "no section"),
    ("a driver without test", "drivers",
     {"src/drivers/x.c": DRIVER, "man/ashlar-uri.7": ".Ss x\n"}, "no test opens"),
    ("a driver with both", "drivers",
     {"src/drivers/x.c": DRIVER, "man/ashlar-uri.7": ".Ss x\n",
      "tests/x.py": "x://"}, ""),
    ("a waiver of an unknown rule", "waivers",
     {"src/base/a.c": "/* lint: allow nonsense: because */\n"}, "unknown rule"),
    ("a waiver of nothing", "waivers",
     {"src/base/a.c": "/* lint: allow line-length: because */\n"}, "waives nothing"),
]


def offences_of(rule, files):
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        tree = lint.Lint(folder, files)
        if rule == "waivers":
            tree.rule = "line-length"
            lint.rule_line_length(tree)
            lint.check_waivers(tree, {"line-length"})
        else:
            tree.rule = rule
            next(r for r in lint.RULES if lint.rule_name(r) == rule)(tree)
        return tree.offences


def main():
    print(f"1..{len(TABLE) + 1}")
    bad = 0
    for number, (name, rule, files, expected) in enumerate(TABLE, 1):
        found = offences_of(rule, files)
        good = any(expected in text for text in found) if expected else not found
        print(f"{'ok' if good else 'not ok'} {number} - {rule}: {name}")
        if not good:
            bad += 1
            print(f"#   expected {expected or 'nothing'!r}, found {found}")
    tried = {row[1] for row in TABLE}
    foreign = {lint.rule_name(rule) for rule in lint.NEEDS} - {"headers"}
    untried = {lint.rule_name(rule) for rule in lint.RULES} - tried - foreign
    print(f"{'not ok' if untried else 'ok'} {len(TABLE) + 1} - every own rule has a row {untried}")
    return 1 if bad or untried else 0


if __name__ == "__main__":
    sys.exit(main())
