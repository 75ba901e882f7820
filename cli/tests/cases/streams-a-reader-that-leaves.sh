#: not Broken pipe
apb generate --model "$MODEL" --document "$DOCUMENT" --query Why? --greedy --max-tokens 64 | head -c 1 >out
