# The time grows with the sum of both, not with their product.
#: seconds 30
python3 "$TOOLS/model.py" added changed 60000
python3 - <<'END'
import json
path = "changed/tokenizer_config.json"
config = json.load(open(path))
config["chat_template"] = "Be good. " * 1000 + config["chat_template"]
json.dump(config, open(path, "w"))
END
apb generate --model changed --document "$DOCUMENT" --query Why? --greedy --max-tokens 2 --allow-long --json >out
