#: exit 2
#: not abort
python3 "$TOOLS/model.py" config changed num_hidden_layers 4096
apb generate --model changed --document "$DOCUMENT" --query Why?
