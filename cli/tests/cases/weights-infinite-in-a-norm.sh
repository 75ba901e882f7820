#: exit 2
#: stderr tensor `model.norm.weight` is inf at [3]
python3 "$TOOLS/model.py" set changed model.norm.weight 3 inf
apb generate --model changed --document "$DOCUMENT" --query Why? --max-tokens 2 --method star --ranks 2
