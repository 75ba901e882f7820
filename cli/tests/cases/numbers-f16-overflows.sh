# Activations beyond 65,504: f16 overflows and says in which layer; bf16 does not.
#: exit 2
#: stderr layer 1
#: stderr f16, which ends at 65,504, overflows
#: stderr bf16
#: stdout works
python3 "$TOOLS/model.py" scale changed model.layers.1.mlp.down_proj.weight 3e6
apb generate --model changed --document "$DOCUMENT" --query Why? --max-tokens 2 --dtype bf16 --quiet >out && echo works
apb generate --model changed --document "$DOCUMENT" --query Why? --max-tokens 2 --dtype f16
