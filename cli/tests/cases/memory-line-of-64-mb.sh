# The line is refused, the next is answered.
#: exit 2
#: mebibytes 1000
#: stderr longer than 1 MiB
#: stdout "text"
(head -c 67108864 /dev/zero | tr '\0' a; echo; echo Why?) |
    apb chat --model "$MODEL" --document "$DOCUMENT" --greedy --max-tokens 2 --json
