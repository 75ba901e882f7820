#: exit 2
#: stderr context is 4096
apb generate --model "$MODEL" --document "$DOCUMENT" --query Why? --max-tokens 18446744073709551615
