#: exit 2
#: not 	forged
python3 "$TOOLS/model.py" config changed model_type '"x\u001b[31m\u0007\u009b1m\u202ey"' architectures '["\u001b[2JForCausalLM"]'
apb generate --model changed --document "$DOCUMENT" --query Why?
apb generate --model changed --document "$DOCUMENT" --query Why? --json
