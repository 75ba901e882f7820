//! Tensor names of llama.cpp and of Hugging Face.

/// Parts of a layer: llama.cpp's name and Hugging Face's.
const LAYER: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// The Hugging Face name of a tensor of a Llama or Qwen; `None` if such models have none like it.
pub(super) fn hugging_face(name: &str) -> Option<String> {
    match name {
        "token_embd.weight" => return Some("model.embed_tokens.weight".into()),
        "output_norm.weight" => return Some("model.norm.weight".into()),
        "output.weight" => return Some("lm_head.weight".into()),
        _ => {}
    }
    let mut parts = name.strip_prefix("blk.")?.split('.');
    let (layer, part, kind, rest) = (parts.next()?, parts.next()?, parts.next()?, parts.next());
    // Only the canonical spelling, so that two names cannot become one.
    let canonical = layer.parse::<u32>().is_ok_and(|n| n.to_string() == layer);
    if !canonical || !matches!(kind, "weight" | "bias") || rest.is_some() {
        return None;
    }
    let (_, part) = LAYER.iter().find(|(theirs, _)| *theirs == part)?;
    Some(format!("model.layers.{layer}.{part}.{kind}"))
}

/// Whether a tensor of the file belongs to a Llama or Qwen.
pub(in crate::checkpoint) fn is_model_tensor(name: &str) -> bool {
    hugging_face(name).is_some()
}

/// llama.cpp's name of a parameter by its path in this crate's decoder; `None` if its models have none like it.
pub(in crate::checkpoint) fn of_parameter(path: &str) -> Option<String> {
    match path {
        "embed_tokens.weight" => return Some("token_embd.weight".into()),
        "norm.gamma" => return Some("output_norm.weight".into()),
        "lm_head.weight" => return Some("output.weight".into()),
        _ => {}
    }
    let (layer, rest) = path.strip_prefix("layers.")?.split_once('.')?;
    let (part, kind) = rest.rsplit_once('.')?;
    let kind = if kind == "gamma" { "weight" } else { kind };
    let (theirs, _) = LAYER.iter().find(|(_, ours)| *ours == part)?;
    Some(format!("blk.{layer}.{theirs}.{kind}"))
}

/// The layer that a tensor of the file belongs to.
pub(in crate::checkpoint) fn layer(name: &str) -> Option<usize> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

/// Layer and part of a bias by its Hugging Face name: 3 and `q_proj`.
pub(super) fn bias(name: &str) -> Option<(usize, &str)> {
    let path = name.strip_prefix("model.layers.")?.strip_suffix(".bias")?;
    let (layer, rest) = path.split_once('.')?;
    Some((layer.parse().ok()?, rest.rsplit('.').next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tensors_as_hugging_face_does() {
        let cases = [
            ("token_embd.weight", Some("model.embed_tokens.weight")),
            ("output.weight", Some("lm_head.weight")),
            (
                "blk.7.attn_q.bias",
                Some("model.layers.7.self_attn.q_proj.bias"),
            ),
            (
                "blk.12.ffn_norm.weight",
                Some("model.layers.12.post_attention_layernorm.weight"),
            ),
            (
                "blk.0.attn_k_norm.weight",
                Some("model.layers.0.self_attn.k_norm.weight"),
            ),
            ("blk.07.attn_q.weight", None),
            ("blk.0.attn_q.weight.x", None),
            ("blk.0.ffn_gate_exps.weight", None),
            ("rope_freqs.weight", None),
        ];
        for (theirs, ours) in cases {
            assert_eq!(hugging_face(theirs).as_deref(), ours, "{theirs}");
            if let Some(ours) = ours {
                let parameter = crate::checkpoint::module_path(ours);
                assert_eq!(of_parameter(&parameter).as_deref(), Some(theirs));
            }
        }
    }

    #[test]
    fn biases_are_found_by_layer_and_part() {
        let found = bias("model.layers.12.self_attn.q_proj.bias");
        assert_eq!(found, Some((12, "q_proj")));
        assert_eq!(bias("model.layers.12.self_attn.q_proj.weight"), None);
        assert_eq!(bias("lm_head.bias"), None);
    }
}
