# At most one line is said about them.
#: mebibytes 1000
#: stderr eos_token_id
python3 "$TOOLS/model.py" copy changed
python3 -c 'print("{\"eos_token_id\": [" + "-1," * 900000 + "-1]}")' > changed/generation_config.json
apb generate --model changed --document "$DOCUMENT" --query Why? --greedy --max-tokens 2 >out 2>err
code=$?
cat err >&2
[ "$(wc -c <err)" -lt 4000 ] && exit 0
exit $code
