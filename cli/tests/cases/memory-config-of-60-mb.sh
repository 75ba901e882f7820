#: exit 2
#: mebibytes 1000
#: stderr 4 MiB
python3 "$TOOLS/model.py" copy changed
python3 -c 'print("{\"a\": [" + "0," * 30000000 + "0]}")' > changed/config.json
apb generate --model changed --document "$DOCUMENT" --query Why?
