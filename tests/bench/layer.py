#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""layer.py - what one I/O costs in the device layer, and one more layer on top.

Runs `ashlar bench` on a null device and on a counting filter over it, in turns, statistics and
histograms on as always. A claim about the filter is the median of the differences of the pairs.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys

ASHLAR = os.environ.get("ASHLAR", "build/ashlar")
NULL = "null:///n0?size_mb=1024&blk_size=4096"
FILTER = "passthru:///p0?base=null%3A%2F%2F%2Fn0%3Fsize_mb%3D1024%26blk_size%3D4096"


def cost_ns(uri, depth, seconds):
    """Nanoseconds of processor time for one I/O, the bench loop's own included."""
    output = subprocess.run(
        [ASHLAR, "bench", uri, "--rw", "randread", "--qd", str(depth), "--cores", "0x1",
         "--time", str(seconds), "--json"], check=True, capture_output=True, text=True).stdout
    result = json.loads(output)
    if result["errors"]:
        sys.exit(f"{uri}: {result['errors']} errors")
    return result["cpu_ns_per_io"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--time", type=float, default=1)
    options = parser.parse_args()
    for depth, target in ((128, 15), (1, 25)):
        bare, more = [], []
        for _ in range(options.pairs):
            bare.append(cost_ns(NULL, depth, options.time))
            more.append(cost_ns(FILTER, depth, options.time))
        extra = [b - a for a, b in zip(bare, more)]
        print(f"claim layer-null-qd{depth} value={statistics.median(bare):.1f} unit=ns "
              f"target=<=:{target} least {min(bare):.1f}")
        print(f"claim layer-filter-qd{depth} value={statistics.median(extra):.1f} unit=ns "
              f"target=<=:6 least {min(more) - min(bare):.1f}")


if __name__ == "__main__":
    main()
