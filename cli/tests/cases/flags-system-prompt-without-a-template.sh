#: exit 2
#: stderr a system prompt needs a chat template
python3 "$TOOLS/model.py" copy changed
python3 - <<'PY'
import json
path = "changed/tokenizer_config.json"
config = json.load(open(path))
del config["chat_template"]
json.dump(config, open(path, "w"))
PY
apb generate --model changed --document "$DOCUMENT" --query Why? --max-tokens 2 >out || exit 9
apb generate --model changed --document "$DOCUMENT" --query Why? --system 'Be brief.'
