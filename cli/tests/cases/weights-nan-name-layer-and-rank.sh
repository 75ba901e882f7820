#: exit 2
#: stderr layer 0
#: stderr rank 0
python3 "$TOOLS/model.py" set changed model.layers.0.mlp.down_proj.weight 0 nan
apb session save --model changed --document "$DOCUMENT" --method apb --ranks 2 --compressor random --out saved
