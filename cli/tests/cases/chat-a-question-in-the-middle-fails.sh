#: exit 2
#: stdout "exit_code":2
python3 -c 'print("Why?"); print("long " * 5000); print("When?")' |
    apb chat --model "$MODEL" --document "$DOCUMENT" --greedy --max-tokens 2 --json >out
code=$?
cat out
[ "$(wc -l <out)" = 3 ] || exit 9
sed -n 2p out | grep -q '"error"' || exit 8
sed -n 3p out | grep -q '"text"' || exit 7
exit $code
