#: stderr --seed changes nothing without --temperature
apb generate --model "$MODEL" --document "$DOCUMENT" --query Why? --seed 3 --max-tokens 2 >out
