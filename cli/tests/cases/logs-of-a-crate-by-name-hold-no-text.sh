#: not April
#: not bright
APB_LOG=tokenizers=trace,debug apb generate --model "$MODEL" --document "$DOCUMENT" --query Why? --greedy --max-tokens 2 --json >out
