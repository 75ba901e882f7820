# Every field as large as a config may say: a plan refuses what no device holds.
#: exit 5
#: stderr fit
cat > config.json <<'JSON'
{"model_type": "llama", "vocab_size": 16777216, "hidden_size": 1048576, "intermediate_size": 1048576,
 "num_hidden_layers": 4096, "num_attention_heads": 4096, "num_key_value_heads": 4096, "head_dim": 256,
 "max_position_embeddings": 1073741824, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false}
JSON
apb plan --model config.json --tokens 1073741824 --ranks 8 --device h100
