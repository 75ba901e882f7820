#: exit 5
#: stderr the largest that fits is --max-tokens
apb generate --model "$MODEL" --document "$DOCUMENT" --query Why? --allow-long --max-tokens 18446744073709551615
