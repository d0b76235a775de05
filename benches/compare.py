#!/usr/bin/env python3
"""Whole conversions: silicast against `cp` and the natural PyTorch code, alternated in one run.

    cargo build --release
    cargo xtask bench-inputs /dev/shm/silicast-bench
    python benches/compare.py /dev/shm/silicast-bench          # needs torch and safetensors

Prints, per conversion, the medians of wall time, CPU time (user + system) and peak memory of each, and the ratios that
docs/performance.md quotes. Put inputs and outputs on a RAM-backed file system, where fsync costs nothing and `cp` plays by
the same rules. Nothing here is an assertion: machines differ, ratios travel better than seconds.
"""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# name, input, silicast target and scheme, whether cp copies the input or our output for the wall-time ratio
CASES = [
    ("FP8 -> BF16", "dsv3", "vllm", "BF16", "output"),
    ("FP8 -> INT8 row", "dsv3", "vllm", "W8A8", "input"),
    ("FP8 -> INT8 row, BF16-snapped", "dsv3", "ascend-910b", "W8A8_DYNAMIC", "input"),
    ("FP8 -> FP8 row", "dsv3", "vllm", "FP8_DYNAMIC", "input"),
    ("BF16 -> INT8 row", "llama", "vllm", "W8A8", "input"),
    ("BF16 -> FP8 128x128", "llama", "vllm", "FP8_BLOCK", "input"),
    ("BF16 -> FP8 128x128 UE8M0", "llama", "vllm", "FP8_BLOCK_UE8M0", "input"),
    ("copy FP8", "dsv3", "vllm", "FP8_BLOCK", "input"),
    ("copy BF16", "llama", "vllm", "BF16", "input"),
]


def torch_convert(case: str, source: Path, out: Path) -> None:
    """What an engineer writes: shard by shard, tensor by tensor, whole tensors in memory."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    scheme = {c[0]: c[3] for c in CASES}[case]
    index = json.loads((source / "model.safetensors.index.json").read_text())["weight_map"]
    handles = {name: safe_open(source / name, "pt") for name in sorted(set(index.values()))}
    keep = ("embed", "lm_head", "norm", "mlp.gate.", "kv_b_proj", "eh_proj", "shared_head")

    def values(name):
        weight = handles[index[name]].get_tensor(name)
        if weight.dtype != torch.float8_e4m3fn:
            return weight
        scale = handles[index[name + "_scale_inv"]].get_tensor(name + "_scale_inv")
        n, k = weight.shape
        grid = scale.repeat_interleave(128, 0)[:n].repeat_interleave(128, 1)[:, :k]
        return weight.float() * grid

    def quantize(weight):
        if scheme in ("W8A8", "W8A8_DYNAMIC"):
            weight = weight.float()
            scale = weight.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
            if scheme == "W8A8_DYNAMIC":
                scale = scale.bfloat16().float()
            return torch.round(weight / scale).clamp(-127, 127).to(torch.int8), scale
        if scheme == "FP8_DYNAMIC":
            weight = weight.float()
            scale = weight.abs().amax(1, keepdim=True).clamp(min=1e-12) / 448
            return (weight / scale).clamp(-448, 448).to(torch.float8_e4m3fn), scale
        n, k = weight.shape
        padded = torch.zeros(-(-n // 128) * 128, -(-k // 128) * 128)
        padded[:n, :k] = weight.float()
        blocks = padded.view(padded.shape[0] // 128, 128, -1, 128)
        scale = blocks.abs().amax((1, 3), keepdim=True).clamp(min=1e-4) / 448
        if scheme == "FP8_BLOCK_UE8M0":
            scale = torch.exp2(torch.ceil(torch.log2(scale)))
        codes = (blocks / scale).clamp(-448, 448).to(torch.float8_e4m3fn)
        return codes.view_as(padded)[:n, :k].contiguous(), scale.view(scale.shape[0], -1)

    out.mkdir()
    plain_copy = case.startswith("copy")
    for shard in sorted(set(index.values())):
        tensors = {}
        for name in sorted(n for n, f in index.items() if f == shard):
            if plain_copy:
                tensors[name] = handles[shard].get_tensor(name)
                continue
            if name.endswith("_scale_inv"):
                continue
            weight = values(name)
            linear = name.endswith(".weight") and weight.dim() == 2 and not any(k in name for k in keep)
            if linear and scheme != "BF16":
                tensors[name], tensors[name + "_scale"] = quantize(weight)
            else:
                tensors[name] = weight if weight.dtype != torch.float32 or weight.dim() != 2 else weight.bfloat16()
        save_file(tensors, out / shard, metadata={"format": "pt"})


def measure(command: list[str]) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak memory in MB of one command."""
    start = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    message = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.monotonic() - start
    if status != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{message.decode(errors='replace')}")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", default="", help="part of a conversion's name")
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/silicast")
    parser.add_argument("--no-torch", action="store_true", help="compare with cp only")
    parser.add_argument("--torch", nargs=2, metavar=("CASE", "OUT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.torch:
        torch_convert(args.torch[0], args.inputs, Path(args.torch[1]))
        return
    out = args.inputs / "out"

    def fresh() -> Path:
        shutil.rmtree(out, ignore_errors=True)
        return out

    print("| conversion | silicast wall / CPU s, MB | cp wall s | PyTorch wall / CPU s, MB | CPU ratio | wall / cp |")
    print("|---|---|---|---|---|---|")
    for name, model, target, scheme, copied in CASES:
        if args.only not in name:
            continue
        source = args.inputs / model
        ours, theirs, copies = [], [], []
        for run in range(args.runs + 1):
            command = [args.binary, "convert", source, "-o", fresh(), "--target", target, "--scheme", scheme]
            one = measure([str(c) for c in command])
            reference = source
            if copied == "output":
                reference = args.inputs / "reference"
                shutil.rmtree(reference, ignore_errors=True)
                out.rename(reference)
            other = measure(["cp", "-r", str(reference), str(fresh())])
            if copied == "output":
                shutil.rmtree(reference)
            natural = None
            if not args.no_torch:
                natural = measure([sys.executable, __file__, str(source), "--torch", name, str(fresh())])
            # The first round warms the page cache and does not count.
            if run > 0:
                ours.append(one)
                copies.append(other)
                theirs.extend([natural] if natural else [])
        fresh()
        median = lambda rows, i: statistics.median(row[i] for row in rows)
        row = [name, f"{median(ours, 0):.2f} / {median(ours, 1):.2f}, {median(ours, 2):.0f}", f"{median(copies, 0):.2f}"]
        if theirs:
            row += [f"{median(theirs, 0):.2f} / {median(theirs, 1):.2f}, {median(theirs, 2):.0f}"]
            row += [f"{median(theirs, 1) / median(ours, 1):.1f}x"]
        else:
            row += ["-", "-"]
        row += [f"{median(ours, 0) / median(copies, 0):.2f}"]
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
