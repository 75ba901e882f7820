#: exit 5
#: stdout "kind":"memory"
apb generate --model "$MODEL" --document "$DOCUMENT" --query Why? --allow-long --max-tokens 18446744073709551615 --json
