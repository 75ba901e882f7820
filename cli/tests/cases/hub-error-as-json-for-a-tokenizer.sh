#: stderr tokenizer.json: expected JSON with `model`, found other JSON
. "$TOOLS/hub.sh"
fetch_helps_later 'body:tokenizer.json={"error": "log in"}'
