# Every line has an object, and the exit code says that one failed.
#: exit 2
#: stderr not UTF-8: byte 4
#: stdout "kind":"usage"
#: stdout "text"
printf 'What\377?\nWhy?\n' | apb chat --model "$MODEL" --document "$DOCUMENT" --greedy --max-tokens 2 --json >out
code=$?
cat out
[ "$(wc -l <out)" = 2 ] || exit 9
exit $code
