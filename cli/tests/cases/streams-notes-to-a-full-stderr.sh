#: stdout done
apb generate --model "$MODEL" --document "$DOCUMENT" --query Why? --greedy --max-tokens 2 2>/dev/full >out && echo done
