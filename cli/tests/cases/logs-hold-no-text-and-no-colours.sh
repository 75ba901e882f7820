#: not April
#: not tokenizers
APB_LOG=trace apb generate --model "$MODEL" --document "$DOCUMENT" --query Why? --greedy --max-tokens 2 --json >out
