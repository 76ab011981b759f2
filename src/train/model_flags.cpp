#include "train/flags.h"

namespace xmoe {

void add_model_flags(FlagTable& table, ModelConfig& model) {
  table.group("Model", FlagRole::model);
  table.integer("num-layers", model.layers, "Layers of the decoder", at_least(1));
  table.integer("hidden-size", model.hidden, "Width of the residual stream", at_least(1));
  table.integer("num-attention-heads", model.heads, "Query heads", at_least(1));
  table.integer("num-query-groups", model.kv_heads,
                "Key-value heads (grouped-query attention); 0: as many as query heads", at_least(0));
  table.satisfied("group-query-attention", Arity::none, "--num-query-groups alone decides");
  table.integer("kv-channels", model.head_dim, "Width of a head; 0: hidden size / heads", at_least(0));
  table.integer("ffn-hidden-size", model.ffn_hidden,
                "Inner width of the feed-forward block of dense layers; 0: 4 * hidden size", at_least(0));
  table.integer("seq-length", model.seq_length, "Tokens of a training sequence", at_least(1));
  table.choice("normalization", model.norm,
               {{"LayerNorm", NormKind::layer_norm}, {"RMSNorm", NormKind::rms_norm}},
               "Normalisation before attention, feed-forward blocks and output");
  table.real("norm-epsilon|layernorm-epsilon", model.norm_epsilon,
             "Added to the variance in the normalisation", above(0));
  table.real("rotary-base", model.rotary_base, "Base of the angles of the rotary embedding", above(0));
  table.set("untie-embeddings-and-output-weights", model.tied_embeddings, false,
            "Separate weights for embedding and output projection");
  table.set("swiglu", model.moe.activation, Activation::swiglu,
            "SwiGLU in place of GELU, in dense layers and experts");
  table.group("Model", FlagRole::run);
  table.real("init-method-std", model.init_std, "Standard deviation of the initial weights", above(0));
}

namespace {

void add_dispatcher_flags(FlagTable& table, MoeConfig& moe) {
  table.choice(
      "moe-dispatcher", moe.dispatcher,
      {{"flat", DispatcherKind::flat},
       {"padded", DispatcherKind::padded},
       {"rbd", DispatcherKind::rbd},
       {"auto", DispatcherKind::automatic}},
      "How tokens travel to experts. flat: padding-free, uneven all-to-all. rbd: padding-free in two "
      "stages, a token crosses to a node once however many of its experts are there. auto: flat or "
      "rbd, by the nodes and the speed of their links, measured at the start. padded: buffers of "
      "fixed capacity, even all-to-all, the conventional way to measure against");
  // Not against --use-rbd, with which X-MoE's scripts give them: its buffers are padding-free, too.
  const auto padding_free = [&](const char* name, const char* help) {
    Flag flag;
    flag.arity = Arity::none;
    flag.help = help;
    flag.read = [&moe](const std::vector<std::string>& given) {
      if (given.front() == "true" && moe.dispatcher == DispatcherKind::padded)
        moe.dispatcher = DispatcherKind::flat;
      return std::string();
    };
    table.add(name, std::move(flag));
  };
  padding_free("use-pft", "Padding-free token buffers: any dispatcher but padded");
  padding_free("use-uneven-all-to-all", "Uneven exchanges: any dispatcher but padded");
  table.set("use-rbd", moe.dispatcher, DispatcherKind::rbd,
            "Redundancy-bypassing dispatch: the rbd dispatcher", false);
  table.set("moe-pad-expert-input-to-capacity", moe.dispatcher, DispatcherKind::padded,
            "The padded dispatcher", false);
  for (const char* name : {"use-pft", "use-uneven-all-to-all", "use-rbd"}) {
    table.conflict(name, "moe-dispatcher", "padded");
    table.conflict("moe-pad-expert-input-to-capacity", name);
  }
  table.conflict("use-rbd", "moe-dispatcher", "flat");
  table.conflict("use-rbd", "moe-dispatcher", "auto");
  for (const char* kind : {"flat", "rbd", "auto"})
    table.conflict("moe-pad-expert-input-to-capacity", "moe-dispatcher", kind);
  table.integer("moe-overlap-chunks", moe.overlap_chunks,
                "Parts into which an MoE layer cuts its tokens, so that the rows of one part travel while "
                "the experts compute another; 1: no overlap",
                at_least(1));
}

}  // namespace

void add_moe_flags(FlagTable& table, MoeConfig& moe, ModelConfig& model) {
  RouterConfig& router = moe.router;
  table.group("Mixture of experts", FlagRole::model);
  table.integer("num-experts", router.experts, "Routed experts of an MoE layer; 0: a dense model",
                at_least(0));
  table.integer("moe-router-topk|topk", router.top_k, "Experts that a token is routed to", at_least(1));
  table.integer("moe-ffn-hidden-size", moe.ffn_hidden, "Inner width of one expert; 0: --ffn-hidden-size",
                at_least(0));
  table.integer("moe-shared-expert-intermediate-size", moe.shared_ffn_hidden,
                "Inner width of the shared experts together, which every token passes; 0: none", at_least(0));
  table.integer("moe-first-k-dense", model.first_k_dense, "Dense layers before the first MoE layer",
                at_least(0));
  table.integer("moe-layer-freq|expert-interval", model.moe_layer_freq,
                "Of the layers behind those, every n-th is an MoE layer", at_least(1));
  table.choice("moe-router-score-function", router.score_function,
               {{"softmax", ScoreFunction::softmax}, {"sigmoid", ScoreFunction::sigmoid}},
               "From router logits to scores");
  table.set("moe-router-pre-softmax", router.pre_softmax, true,
            "Softmax over all experts before the choice, not over the chosen ones");
  table.set("moe-router-norm-topk-prob", router.normalize_topk, true,
            "Divide the weights of the chosen experts by their sum");
  table.real("moe-router-topk-scaling-factor", router.scaling_factor,
             "Multiplies the weights of the chosen experts", above(0));
  table.integer("moe-router-num-groups", router.groups, "Groups of experts (group-limited routing)",
                at_least(1));
  table.integer("moe-router-group-topk", router.topk_groups, "Groups that a token's experts may come from",
                at_least(1));
  table.set("moe-router-enable-expert-bias", router.expert_bias, true,
            "Balance the load by a bias on the choice (auxiliary-loss-free, DeepSeek-V3)");
  // Dispatchers, capacities and coefficients of losses may change when training goes on.
  table.group("Mixture of experts", FlagRole::run);
  table.real("moe-router-bias-update-rate", router.bias_update_rate, "Step of that bias per iteration",
             at_least(0));
  table.real("moe-aux-loss-coeff|moe-loss-coeff", router.aux_loss_coeff, "Weight of the load-balancing loss",
             at_least(0));
  table.real("moe-z-loss-coeff", router.z_loss_coeff, "Weight of the router's z-loss", at_least(0));
  table.real(
      "moe-expert-capacity-factor|moe-train-capacity-factor", moe.capacity_factor,
      "An expert keeps at most this many times its even share of the tokens; unset: nothing is "
      "dropped. The share is of the tokens that a rank routes together, so that other layouts drop other "
      "assignments. In training only: evaluation and generation drop nothing",
      above(0));
  table.set("disable-moe-token-dropping", moe.capacity_factor, std::optional<double>(),
            "Nothing is dropped, whatever the capacity factor", false);
  table.integer("moe-min-capacity", moe.min_capacity, "Least capacity of an expert", at_least(0));
  add_dispatcher_flags(table, moe);
}

}  // namespace xmoe
