#: exit 2
#: seconds 20
#: stderr expected at most 131072 added tokens of 2 MiB together, found 200003
python3 "$TOOLS/model.py" copy changed
python3 -c 'import json; print(json.dumps({f"<{at}>": 259 + at for at in range(200000)}))' >changed/added_tokens.json
apb generate --model changed --document "$DOCUMENT" --query Why?
