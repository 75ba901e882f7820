# 10^6 tokens would be 734 MiB of keys and values: an answer that ends after a few does not take them.
#: mebibytes 3000
#: stdout "stop_reason":"stop_token"
ask() { apb generate --model "$MODEL" --document "$DOCUMENT" --query Why? --greedy --allow-long --json --quiet "$@"; }
stop=$(ask --max-tokens 3 | sed 's/.*"tokens":\[[0-9]*,\([0-9]*\).*/\1/')
ask --max-tokens 1000000 --stop-token "$stop" >out
cat out
peak=$(sed 's/.*"peak_bytes":\([0-9]*\).*/\1/' out)
[ "$peak" -lt 100000000 ]
