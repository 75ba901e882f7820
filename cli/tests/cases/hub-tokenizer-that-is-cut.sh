# Without a length or a hash, only the content tells that a part is missing.
#: stderr tokenizer.json: expected a JSON object, found something else (EOF
. "$TOOLS/hub.sh"
fetch_helps_later 'cut:tokenizer.json=1000'
