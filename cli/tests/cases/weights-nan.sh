#: exit 2
#: stderr tensor `model.layers.1.mlp.up_proj.weight` is NaN at [2, 6]
python3 "$TOOLS/model.py" set changed model.layers.1.mlp.up_proj.weight 134 nan
apb generate --model changed --document "$DOCUMENT" --query Why? --max-tokens 2
