#: exit 2
#: stderr factor
python3 "$TOOLS/model.py" config changed rope_scaling '{"rope_type": "linear", "factor": 1e-300}'
apb generate --model changed --document "$DOCUMENT" --query Why?
