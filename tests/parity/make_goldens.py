#!/usr/bin/env python3
"""Writes the files that the parity test compares this program with.

    python3 tests/parity/make_goldens.py OUTDIR        needs torch and safetensors

A plain PyTorch model, written from the definitions in the headers and computed in float64 on the CPU, trains for
ten steps. Per case one safetensors file:

    initial.NAME   parameters and router biases before the first step, f32
    tokens         [10, B, S + 1] i32: inputs are [:, :, :-1], targets [:, :, 1:]
    logits         [B, S, V] of the initial parameters on the tokens of step 0, nothing dropped: those of evaluation
    gradient.NAME  of step 0, of lm + aux + z loss, before clipping
    counts         [10, MoE layers, E] i64: assignments per expert, before dropping
    dropped        [10] i64: assignments dropped, over all MoE layers
    lm_losses, aux_losses, z_losses, grad_norms   [10] f32; aux and z with their coefficients, summed over layers
    final.NAME     router biases after the last step, where there are any

The metadata holds, under "config", the case as JSON; its field names are those of ModelConfig, MoeConfig,
RouterConfig and OptimizerConfig.

A choice of experts that hangs on the last bits of a float32 would make the comparison a matter of luck. So the
first seed is taken for which every choice in all ten steps is clear, and the same training in float32 is compared
with the one in float64: what remains is the noise floor that the tolerance of the parity test has to respect.
"""

import json
import math
import os
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

STEPS = 10
# A float32 score carries a relative error of some 1e-6 after these few layers, so choices further apart than this
# are made alike in every precision and order of sums.
CLEAR_MARGIN = 2e-5

CASES = {
    # Softmax before the selection, selected probabilities normalised; grouped queries; both auxiliary losses.
    "softmax_rms_swiglu": {
        "model": dict(layers=3, hidden=24, ffn_hidden=20, heads=4, kv_heads=2, head_dim=6, vocabulary=61, seq_length=13,
                      norm="rms_norm", norm_epsilon=1e-5, rotary_base=10000.0, tied_embeddings=True, first_k_dense=1,
                      moe_layer_freq=1),
        "router": dict(experts=8, top_k=3, score_function="softmax", pre_softmax=True, normalize_topk=True,
                       scaling_factor=1.0, groups=1, topk_groups=1, expert_bias=False, bias_update_rate=0.0,
                       aux_loss_coeff=0.02, z_loss_coeff=0.003),
        "moe": dict(ffn_hidden=8, shared_ffn_hidden=12, activation="swiglu", capacity_factor=None, min_capacity=4),
        "batch": 2,
    },
    # Sigmoid scores, experts chosen from the best groups by score plus bias, weights scaled (DeepSeek-V3).
    "sigmoid_groups_bias": {
        "model": dict(layers=3, hidden=20, ffn_hidden=28, heads=2, kv_heads=2, head_dim=10, vocabulary=53, seq_length=11,
                      norm="layer_norm", norm_epsilon=1e-6, rotary_base=500.0, tied_embeddings=False, first_k_dense=0,
                      moe_layer_freq=1),
        "router": dict(experts=12, top_k=3, score_function="sigmoid", pre_softmax=False, normalize_topk=True,
                       scaling_factor=2.5, groups=4, topk_groups=2, expert_bias=True, bias_update_rate=0.01,
                       aux_loss_coeff=0.001, z_loss_coeff=0.0),
        "moe": dict(ffn_hidden=6, shared_ffn_hidden=0, activation="gelu", capacity_factor=None, min_capacity=4),
        "batch": 3,
    },
    # Softmax over the selected logits, experts that overflow, and a dense layer between MoE layers.
    "postsoftmax_dropping": {
        "model": dict(layers=4, hidden=16, ffn_hidden=24, heads=4, kv_heads=1, head_dim=4, vocabulary=47, seq_length=17,
                      norm="rms_norm", norm_epsilon=1e-5, rotary_base=10000.0, tied_embeddings=False, first_k_dense=0,
                      moe_layer_freq=2),
        "router": dict(experts=6, top_k=2, score_function="softmax", pre_softmax=False, normalize_topk=False,
                       scaling_factor=1.0, groups=1, topk_groups=1, expert_bias=False, bias_update_rate=0.0,
                       aux_loss_coeff=0.01, z_loss_coeff=0.001),
        "moe": dict(ffn_hidden=12, shared_ffn_hidden=8, activation="swiglu", capacity_factor=0.9, min_capacity=2),
        "batch": 2,
    },
    # Every token goes to every expert, so that rounding cannot change the choice, and sizes that tensor cores take:
    # what is compared in bf16.
    "every_expert": {
        "model": dict(layers=2, hidden=64, ffn_hidden=64, heads=4, kv_heads=2, head_dim=16, vocabulary=61, seq_length=24,
                      norm="rms_norm", norm_epsilon=1e-5, rotary_base=10000.0, tied_embeddings=False, first_k_dense=0,
                      moe_layer_freq=1),
        "router": dict(experts=4, top_k=4, score_function="softmax", pre_softmax=True, normalize_topk=True,
                       scaling_factor=1.0, groups=1, topk_groups=1, expert_bias=False, bias_update_rate=0.0,
                       aux_loss_coeff=0.01, z_loss_coeff=0.001),
        "moe": dict(ffn_hidden=32, shared_ffn_hidden=64, activation="swiglu", capacity_factor=None, min_capacity=4),
        "batch": 2,
    },
    # Raw softmax probabilities as weights, groups ranked by their best expert (DeepSeek-V2), a bound that binds an
    # expert only now and then.
    "raw_softmax_groups": {
        "model": dict(layers=2, hidden=16, ffn_hidden=16, heads=2, kv_heads=1, head_dim=8, vocabulary=41, seq_length=9,
                      norm="layer_norm", norm_epsilon=1e-5, rotary_base=10000.0, tied_embeddings=True, first_k_dense=1,
                      moe_layer_freq=1),
        "router": dict(experts=8, top_k=2, score_function="softmax", pre_softmax=True, normalize_topk=False,
                       scaling_factor=1.5, groups=4, topk_groups=2, expert_bias=False, bias_update_rate=0.0,
                       aux_loss_coeff=0.0, z_loss_coeff=0.01),
        "moe": dict(ffn_hidden=12, shared_ffn_hidden=16, activation="gelu", capacity_factor=1.5, min_capacity=1),
        "batch": 3,
    },
}

OPTIMIZER = dict(learning_rate=5e-3, beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.1, clip_grad=0.5)


def is_moe_layer(model, layer):
    beyond_dense = layer - model["first_k_dense"]
    return beyond_dense >= 0 and (beyond_dense + 1) % model["moe_layer_freq"] == 0


def first_width(activation, ffn):
    return 2 * ffn if activation == "swiglu" else ffn


def make_parameters(case, generator):
    """Name -> float32 tensor. Larger than a real initialisation, so that no part of the model is near-linear."""
    model, router, moe = case["model"], case["router"], case["moe"]
    hidden, heads, kv, dim = model["hidden"], model["heads"], model["kv_heads"], model["head_dim"]
    act = moe["activation"]
    parameters, biases = {}, {}

    def normal(name, *shape, std):
        parameters[name] = torch.randn(*shape, generator=generator, dtype=torch.float64) * std

    def matrix(name, *shape):
        normal(name, *shape, std=1.0 / math.sqrt(shape[-1]))

    def norm(name):
        normal(name + ".weight", hidden, std=0.2)
        parameters[name + ".weight"] += 1.0
        if model["norm"] == "layer_norm":
            normal(name + ".bias", hidden, std=0.2)

    normal("embedding.weight", model["vocabulary"], hidden, std=0.3)
    for layer in range(model["layers"]):
        at = f"layers.{layer}."
        norm(at + "attention_norm")
        matrix(at + "attention.qkv", (heads + 2 * kv) * dim, hidden)
        matrix(at + "attention.out", hidden, heads * dim)
        norm(at + "mlp_norm")
        if not is_moe_layer(model, layer):
            matrix(at + "mlp.w1", first_width(act, model["ffn_hidden"]), hidden)
            matrix(at + "mlp.w2", hidden, model["ffn_hidden"])
            continue
        normal(at + "moe.router.weight", router["experts"], hidden, std=0.35)
        if router["expert_bias"]:
            biases[at + "moe.router.bias"] = 0.05 * torch.randn(router["experts"], generator=generator,
                                                                dtype=torch.float64)
        matrix(at + "moe.experts.w1", router["experts"], first_width(act, moe["ffn_hidden"]), hidden)
        matrix(at + "moe.experts.w2", router["experts"], hidden, moe["ffn_hidden"])
        if moe["shared_ffn_hidden"]:
            matrix(at + "moe.shared.w1", first_width(act, moe["shared_ffn_hidden"]), hidden)
            matrix(at + "moe.shared.w2", hidden, moe["shared_ffn_hidden"])
    norm("final_norm")
    if not model["tied_embeddings"]:
        matrix("output.weight", model["vocabulary"], hidden)
    # What is stored is float32; every training starts from exactly the stored values.
    return {n: t.float() for n, t in parameters.items()}, {n: t.float() for n, t in biases.items()}


class Model:
    """The model in functions; gradients are left to autograd. `margin` is the narrowest choice seen so far."""

    def __init__(self, case, parameters, biases, dtype):
        self.case = case
        self.parameters = {n: t.to(dtype, copy=True).requires_grad_() for n, t in parameters.items()}
        self.biases = {n: t.to(dtype, copy=True) for n, t in biases.items()}
        self.margin = math.inf

    def forward(self, tokens, may_drop=True):
        """tokens [B, S] -> logits [B, S, V]; fills aux_loss, z_loss, counts and dropped."""
        model = self.case["model"]
        self.aux_loss, self.z_loss, self.counts, self.dropped = 0.0, 0.0, [], 0
        p = self.parameters
        x = p["embedding.weight"][tokens]
        for layer in range(model["layers"]):
            at = f"layers.{layer}."
            x = x + self.attention(at + "attention.", self.norm(at + "attention_norm", x))
            y = self.norm(at + "mlp_norm", x)
            if is_moe_layer(model, layer):
                x = x + self.moe(at + "moe.", y.reshape(-1, model["hidden"]), may_drop).reshape(y.shape)
            else:
                x = x + self.mlp(y, p[at + "mlp.w1"], p[at + "mlp.w2"])
        x = self.norm("final_norm", x)
        return x @ p["embedding.weight" if model["tied_embeddings"] else "output.weight"].T

    def norm(self, name, x):
        model, weight = self.case["model"], self.parameters[name + ".weight"]
        if model["norm"] == "rms_norm":
            return x / torch.sqrt((x * x).mean(-1, keepdim=True) + model["norm_epsilon"]) * weight
        centred = x - x.mean(-1, keepdim=True)
        deviation = torch.sqrt((centred * centred).mean(-1, keepdim=True) + model["norm_epsilon"])
        return centred / deviation * weight + self.parameters[name + ".bias"]

    def mlp(self, x, w1, w2):
        h = x @ w1.T
        if self.case["moe"]["activation"] == "swiglu":
            gate, up = h.chunk(2, dim=-1)
            a = gate * torch.sigmoid(gate) * up
        else:
            a = 0.5 * h * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (h + 0.044715 * h**3)))
        return a @ w2.T

    def rotate(self, x):
        """Half-split rotary embedding of x [B, S, heads, D]."""
        seq, dim = x.shape[1], x.shape[3]
        frequency = self.case["model"]["rotary_base"] ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        angle = torch.arange(seq, dtype=torch.float64)[:, None] * frequency  # [S, D / 2]
        cosine, sine = angle.cos().to(x.dtype)[:, None, :], angle.sin().to(x.dtype)[:, None, :]
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)

    def attention(self, at, x):
        model = self.case["model"]
        batch, seq, _ = x.shape
        heads, kv, dim = model["heads"], model["kv_heads"], model["head_dim"]
        qkv = x @ self.parameters[at + "qkv"].T
        q, k, v = qkv.split([heads * dim, kv * dim, kv * dim], dim=-1)
        q = self.rotate(q.reshape(batch, seq, heads, dim)).transpose(1, 2)
        k = self.rotate(k.reshape(batch, seq, kv, dim)).transpose(1, 2).repeat_interleave(heads // kv, dim=1)
        v = v.reshape(batch, seq, kv, dim).transpose(1, 2).repeat_interleave(heads // kv, dim=1)
        scores = q @ k.transpose(2, 3) / math.sqrt(dim)  # [B, heads, S, S]
        scores = scores.masked_fill(torch.ones(seq, seq, dtype=torch.bool).triu(1), -math.inf)
        out = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, seq, heads * dim)
        return out @ self.parameters[at + "out"].T

    def see_choice(self, values, chosen):
        """Notes how far the `chosen` largest of the last dimension are from the others."""
        if chosen < values.shape[-1]:
            ordered = values.detach().double().sort(-1, descending=True).values
            ordered = ordered[torch.isfinite(ordered[..., chosen])]
            gap = ordered[..., chosen - 1] - ordered[..., chosen]
            self.margin = min([self.margin] + gap.flatten().tolist())

    def route(self, at, x):
        """x [T, H] -> experts [T, k] and their weights [T, k]; adds to the auxiliary losses."""
        router = self.case["router"]
        experts, top_k, groups = router["experts"], router["top_k"], router["groups"]
        logits = x @ self.parameters[at + "router.weight"].T  # [T, E]
        sigmoid = router["score_function"] == "sigmoid"
        if sigmoid:
            scores = torch.sigmoid(logits)
            probs = scores / scores.sum(-1, keepdim=True)
        else:
            probs = logits.softmax(-1)
            scores = probs if router["pre_softmax"] else logits

        choice = scores.detach()
        if router["expert_bias"]:
            choice = choice + self.biases[at + "router.bias"]
        if groups > 1:
            members = choice.reshape(-1, groups, experts // groups)
            best = 2 if router["expert_bias"] else 1
            rank = members.topk(best, dim=-1).values.sum(-1)  # [T, groups]
            self.see_choice(rank, router["topk_groups"])
            eligible = torch.zeros_like(rank, dtype=torch.bool)
            eligible.scatter_(1, rank.topk(router["topk_groups"], dim=-1).indices, True)
            choice = members.masked_fill(~eligible[:, :, None], -math.inf).reshape(-1, experts)
        self.see_choice(choice, top_k)
        top = choice.topk(top_k, dim=-1).indices  # [T, k]

        weights = scores.gather(1, top)
        if not sigmoid and not router["pre_softmax"]:
            weights = weights.softmax(-1)
        if router["normalize_topk"]:
            weights = weights / (weights.sum(-1, keepdim=True) + (1e-20 if sigmoid else 0.0))
        weights = weights * router["scaling_factor"]

        counts = torch.bincount(top.flatten(), minlength=experts)
        self.counts.append(counts)
        share = counts.to(x.dtype) / x.shape[0]
        self.aux_loss = self.aux_loss + (router["aux_loss_coeff"] * experts * experts / top_k *
                                         (probs.mean(0) * share).mean())
        self.z_loss = self.z_loss + router["z_loss_coeff"] * (logits.logsumexp(-1) ** 2).mean()
        return top, weights

    def moe(self, at, x, may_drop):
        router, moe, p = self.case["router"], self.case["moe"], self.parameters
        top, weights = self.route(at, x)
        capacity = None
        if may_drop and moe["capacity_factor"] is not None:
            wanted = math.ceil(x.shape[0] * router["top_k"] * moe["capacity_factor"] / router["experts"])
            capacity = max(moe["min_capacity"], wanted)
        y = torch.zeros_like(x)
        for expert in range(router["experts"]):
            token, slot = (top == expert).nonzero(as_tuple=True)  # in order of assignments
            if capacity is not None and len(token) > capacity:
                weight = weights[token, slot].detach()
                self.see_choice(weight, capacity)
                kept = weight.sort(descending=True, stable=True).indices[:capacity].sort().values
                self.dropped += len(token) - capacity
                token, slot = token[kept], slot[kept]
            rows = self.mlp(x[token], p[at + "experts.w1"][expert], p[at + "experts.w2"][expert])
            y = y.index_add(0, token, weights[token, slot][:, None] * rows)
        if moe["shared_ffn_hidden"]:
            y = y + self.mlp(x, p[at + "shared.w1"], p[at + "shared.w2"])
        return y


class AdamW:
    """Written out, not torch's: the order of decay and update is part of the definition."""

    def __init__(self, parameters):
        self.moments = {n: (torch.zeros_like(t), torch.zeros_like(t)) for n, t in parameters.items()}
        self.step_count = 0

    def step(self, parameters, scale):
        o = OPTIMIZER
        self.step_count += 1
        with torch.no_grad():
            for name, w in parameters.items():
                m, v = self.moments[name]
                g = w.grad * scale
                m.mul_(o["beta1"]).add_(g, alpha=1.0 - o["beta1"])
                v.mul_(o["beta2"]).addcmul_(g, g, value=1.0 - o["beta2"])
                update = (m / (1.0 - o["beta1"]**self.step_count)) / (
                    (v / (1.0 - o["beta2"]**self.step_count)).sqrt() + o["epsilon"])
                decay = o["weight_decay"] if w.dim() > 1 else 0.0
                w -= o["learning_rate"] * (update + decay * w)


def train(case, parameters, biases, tokens, dtype):
    """Ten steps; returns the tensors of the file that depend on the computation, and the narrowest choice."""
    model = Model(case, parameters, biases, dtype)
    optimizer = AdamW(model.parameters)
    result = {name: [] for name in ("lm_losses", "aux_losses", "z_losses", "grad_norms", "counts", "dropped")}
    for step in range(STEPS):
        inputs, targets = tokens[step, :, :-1].long(), tokens[step, :, 1:].long()
        if step == 0:
            with torch.no_grad():
                result["logits"] = model.forward(inputs, may_drop=False).float()
        logits = model.forward(inputs)
        lm_loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        for w in model.parameters.values():
            w.grad = None
        (lm_loss + model.aux_loss + model.z_loss).backward()
        gradients = {n: w.grad.clone() for n, w in model.parameters.items()}
        norm = math.sqrt(sum(float((g.double()**2).sum()) for g in gradients.values()))
        if step == 0:
            result.update({f"gradient.{n}": g.float() for n, g in gradients.items()})
        result["lm_losses"].append(float(lm_loss))
        result["aux_losses"].append(float(model.aux_loss))
        result["z_losses"].append(float(model.z_loss))
        result["grad_norms"].append(norm)
        result["counts"].append(torch.stack(model.counts))
        result["dropped"].append(model.dropped)

        optimizer.step(model.parameters, min(1.0, OPTIMIZER["clip_grad"] / (norm + 1e-6)))
        for bias, counts in zip(model.biases.values(), model.counts):
            bias += case["router"]["bias_update_rate"] * torch.sign(counts.double().mean() - counts).to(dtype)
    for name in ("lm_losses", "aux_losses", "z_losses", "grad_norms"):
        result[name] = torch.tensor(result[name], dtype=torch.float64).float()
    result["counts"] = torch.stack(result["counts"])
    result["dropped"] = torch.tensor(result["dropped"], dtype=torch.int64)
    result.update({f"final.{n}": t.float() for n, t in model.biases.items()})
    return result, model.margin


def relative_difference(a, b):
    a, b = a.double(), b.double()
    return float((a - b).norm() / max(float(b.norm()), 1e-30))


def make_case(name, case):
    """The first seed whose choices are all clear; returns the tensors of the file, the seed and the noise floor."""
    model = case["model"]
    for seed in range(1, 2001):
        generator = torch.Generator().manual_seed(seed)
        parameters, biases = make_parameters(case, generator)
        tokens = torch.randint(model["vocabulary"], (STEPS, case["batch"], model["seq_length"] + 1),
                               generator=generator)
        exact, margin = train(case, parameters, biases, tokens, torch.float64)
        if margin >= CLEAR_MARGIN:
            break
    else:
        sys.exit(f"{name}: no seed up to {seed} makes all choices clear")

    single, _ = train(case, parameters, biases, tokens, torch.float32)
    for exact_name in ("counts", "dropped"):
        assert torch.equal(exact[exact_name], single[exact_name]), f"{name}: {exact_name} depends on the precision"
    floor = {n: relative_difference(single[n], exact[n]) for n in exact if n not in ("counts", "dropped")}
    if case["moe"]["capacity_factor"] is not None:
        assert int(exact["dropped"].min()) >= 0 and int(exact["dropped"].sum()) > 0, f"{name}: nothing is dropped"
    else:
        assert int(exact["dropped"].sum()) == 0
    tensors = {f"initial.{n}": t for n, t in {**parameters, **biases}.items()}
    tensors["tokens"] = tokens.to(torch.int32)
    tensors.update(exact)
    return tensors, seed, margin, floor


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: make_goldens.py OUTDIR")
    os.makedirs(sys.argv[1], exist_ok=True)
    torch.set_num_threads(1)  # the order of sums then depends on nothing
    for name, case in CASES.items():
        tensors, seed, margin, floor = make_case(name, case)
        config = {**case, "optimizer": OPTIMIZER, "steps": STEPS, "seed": seed}
        path = os.path.join(sys.argv[1], name + ".safetensors")
        save_file({n: t.detach().contiguous() for n, t in tensors.items()}, path, metadata={"config": json.dumps(config)})
        worst = max(floor, key=floor.get)
        print(f"{name}: seed {seed}, narrowest choice {margin:.1e}, lm loss {tensors['lm_losses'][0]:.4f} -> "
              f"{tensors['lm_losses'][-1]:.4f}, dropped {tensors['dropped'].tolist()}, {os.path.getsize(path)} bytes")
        print(f"  float32 against float64: lm losses {floor['lm_losses']:.1e}, worst {worst} {floor[worst]:.1e}")


if __name__ == "__main__":
    main()
