#: exit 2
#: stderr num_hidden_layers
python3 "$TOOLS/model.py" config changed num_hidden_layers 18446744073709551615
apb generate --model changed --document "$DOCUMENT" --query Why?
