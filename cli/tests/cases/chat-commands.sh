#: exit 2
#: stdout "command":"save"
#: stdout "command":"help"
#: stderr known are /reset
printf 'Who?\n/save kept\n/help\n/quit\n' |
    apb chat --model "$MODEL" --document "$DOCUMENT" --greedy --max-tokens 2 --json
code=$?
apb session ask --model "$MODEL" --session kept --query Why? --greedy --max-tokens 2 --quiet >out || exit 9
exit $code
