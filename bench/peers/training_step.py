#!/usr/bin/env python3
"""The four-layer training of docs/performance.md by Hugging Face's Qwen3-MoE: bf16 throughout, fused AdamW, grouped_mm.

States take 8 bytes a parameter, without the master that xmoe keeps (12 bytes with moments in bf16, and 10 with gradients).

Prints milliseconds a step and useful TFLOP/s, counted as xmoe counts them.
"""

import argparse
import time

import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--micro-batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=21, help="more than 3, which are not counted")
    parser.add_argument("--compile", action="store_true", help="through torch.compile")
    args = parser.parse_args()
    if args.steps <= 3:
        parser.error(f"--steps {args.steps}: expected more than 3")
    hidden, ffn, experts, top_k, heads, vocabulary, sequence = 2048, 1408, 64, 6, 16, 50304, 2048
    config = Qwen3MoeConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=ffn,
        moe_intermediate_size=ffn,
        num_hidden_layers=args.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=hidden // heads,
        num_experts=experts,
        num_experts_per_tok=top_k,
        max_position_embeddings=sequence,
        tie_word_embeddings=False,
        output_router_logits=False,
        use_cache=False,
        attn_implementation="sdpa",
        experts_implementation="grouped_mm",
    )
    torch.manual_seed(1)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = Qwen3MoeForCausalLM(config)
    model.train()
    run = torch.compile(model) if args.compile else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step():
        ids = torch.randint(vocabulary, (args.micro_batch_size, sequence), device="cuda")
        loss = run(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    times = []
    for _ in range(args.steps):
        start = time.perf_counter()
        loss = step()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    took = sorted(times[3:])[len(times[3:]) // 2]
    weights = vocabulary * hidden + args.layers * (4 * hidden * hidden + experts * hidden + top_k * 3 * hidden * ffn)
    attention = args.layers * 2 * hidden * (sequence + 1) / 2
    flops = 6 * (weights + attention) * args.micro_batch_size * sequence
    print(
        f"Qwen3-MoE, {args.layers} layers{', compiled' if args.compile else ''}: {took * 1e3:.1f} ms a step "
        f"({min(times[3:]) * 1e3:.1f} to {max(times[3:]) * 1e3:.1f}), {flops / took * 1e-12:.1f} TFLOP/s, "
        f"{torch.cuda.max_memory_allocated() * 1e-9:.1f} GB, loss {loss.item():.3f}"
    )


if __name__ == "__main__":
    main()
