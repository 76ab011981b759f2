#!/usr/bin/env python3
"""The MoE layer of `xmoe_bench moe_layer` as PyTorch has it: its grouped_mm over rows sorted by expert.

Router, gradients of weights and sums over experts are in bf16, where xmoe's are in f32: fewer bytes than xmoe moves.

Prints useful TFLOP/s (the experts' products) forward, and forward with backward, beside the same products as dense
batched ones (torch.bmm). Time it beside xmoe_bench on one GPU, in the same state: with --bursts as with it, or without.
"""

import argparse
import time

import torch
import torch.nn.functional as F

SHAPES = [  # tokens, hidden, ffn, experts, top-k, gated
    (16384, 2048, 1408, 64, 6, False),
    (16384, 2048, 1408, 64, 6, True),
    (8192, 7168, 2048, 4, 1, False),
    (24576, 1536, 256, 128, 8, True),
    (16384, 2048, 768, 128, 8, True),
    (32768, 4096, 1024, 128, 8, True),
]

grouped_mm = getattr(F, "grouped_mm", None) or torch._grouped_mm


@torch.compile(dynamic=True)
def gelu(h, weights):
    return F.gelu(h, approximate="tanh") * weights[:, None].to(h.dtype)


@torch.compile(dynamic=True)
def swiglu(h, weights):
    gate, up = h.chunk(2, dim=-1)
    return F.silu(gate) * up * weights[:, None].to(h.dtype)


def layer(x, router, w1, w2, top_k, gated):
    experts = w1.shape[0]
    probabilities = torch.softmax(F.linear(x, router).float(), dim=-1)
    weights, chosen = probabilities.topk(top_k, dim=-1)
    by_expert = chosen.flatten().argsort(stable=True)
    ends = torch.bincount(chosen.flatten(), minlength=experts).cumsum(0).to(torch.int32)
    tokens = by_expert // top_k
    h = grouped_mm(x[tokens], w1.transpose(-2, -1), offs=ends)
    a = (swiglu if gated else gelu)(h, weights.flatten()[by_expert])
    rows = grouped_mm(a, w2.transpose(-2, -1), offs=ends)
    return torch.zeros_like(x).index_add_(0, tokens, rows)


def seconds(call, bursts):
    """Median of a call: as Bench::seconds has it, in bench/support/bench.cpp."""
    for _ in range(2):
        call()
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    batch = max(1, int((0.02 if bursts else 0.01) / (time.perf_counter() - start)))
    times = []
    spent = 0.0
    while len(times) < 3 or spent < 0.3:
        if bursts:
            time.sleep(0.1)
        start = time.perf_counter()
        for _ in range(batch):
            call()
        torch.cuda.synchronize()
        elapsed = time.perf_counter() - start
        times.append(elapsed / batch)
        spent += elapsed + (0.1 if bursts else 0.0)
    return sorted(times)[len(times) // 2]


def bound(hidden, ffn, width, experts, rows, bursts):
    """Seconds of the products, rows spread evenly: forward, backward."""

    def product(m, n, k):
        a = torch.randn(experts, m, k, device="cuda", dtype=torch.bfloat16)
        b = torch.randn(experts, n, k, device="cuda", dtype=torch.bfloat16)
        return seconds(lambda: torch.bmm(a, b.transpose(1, 2)), bursts)

    m = rows // experts
    forward = product(m, width, hidden) + product(m, hidden, ffn)
    backward = product(m, ffn, hidden) + product(m, hidden, width) + product(width, hidden, m) + product(hidden, ffn, m)
    return forward, backward


def measure(shape, bursts):
    tokens, hidden, ffn, experts, top_k, gated = shape
    width = 2 * ffn if gated else ffn
    rows = tokens * top_k
    flops = 2.0 * rows * hidden * (width + ffn)
    torch.manual_seed(1)

    def random(*size, deviation=1.0):
        return (torch.randn(*size, device="cuda") * deviation).bfloat16()

    x = random(tokens, hidden).requires_grad_()
    router = random(experts, hidden).requires_grad_()
    w1 = random(experts, width, hidden, deviation=0.05).requires_grad_()
    w2 = random(experts, hidden, ffn, deviation=0.05).requires_grad_()
    dy = random(tokens, hidden)

    def forward():
        with torch.no_grad():
            layer(x, router, w1, w2, top_k, gated)

    def step():
        for leaf in (x, router, w1, w2):
            leaf.grad = None
        layer(x, router, w1, w2, top_k, gated).backward(dy)

    one_way = seconds(forward, bursts)
    both = seconds(step, bursts)
    del x, router, w1, w2, dy
    torch.cuda.empty_cache()
    bound_forward, bound_backward = bound(hidden, ffn, width, experts, rows, bursts)
    bound_both = bound_forward + bound_backward
    name = f"T {tokens} H {hidden} I {ffn} E {experts} k {top_k} {'swiglu' if gated else 'gelu'}"
    for what, work, took, least in (
        ("forward", flops, one_way, bound_forward),
        ("step", 3 * flops, both, bound_both),
    ):
        print(
            f"{'torch.' + what:<16} {name:<44} {work / took * 1e-12:8.1f} TFLOP/s {work / least * 1e-12:8.1f} {least / took:6.2f}",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bursts", action="store_true", help="rest before each 20 ms of work, as xmoe_bench --bursts")
    args = parser.parse_args()
    print(f"PyTorch {torch.__version__}, {torch.cuda.get_device_name()}: value, unit, bound, ratio")
    for shape in SHAPES:
        measure(shape, args.bursts)


if __name__ == "__main__":
    main()
