#: exit 2
#: mebibytes 2000
python3 "$TOOLS/model.py" copy changed
python3 -c 'print("{\"a\": [" + "[0]," * 12000000 + "0]}")' > changed/tokenizer.json
apb generate --model changed --document "$DOCUMENT" --query Why?
