# 10^11 tokens are some 20 TiB of keys and values.
#: exit 5
#: stderr GiB
apb generate --model "$MODEL" --document "$DOCUMENT" --query Why? --allow-long --max-tokens 100000000000
