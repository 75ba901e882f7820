# The second question sees the first, unless that is forgotten or not wanted.
#: stdout "turns":1
#: stdout "command":"reset"
ask() { apb chat --model "$MODEL" --document "$DOCUMENT" --greedy --max-tokens 4 --json "$@"; }
printf 'Who?\nWhy?\n/reset\nWhy?\n' | ask >out
cat out
alone=$(printf 'Who?\nWhy?\n' | ask --no-history | sed -n 2p | sed 's/.*"query_tokens":\([0-9]*\).*/\1/')
tokens() { sed -n "$1p" out | sed 's/.*"query_tokens":\([0-9]*\).*/\1/'; }
[ "$(tokens 2)" -gt "$alone" ] || exit 9
[ "$(tokens 4)" = "$alone" ] || exit 8
