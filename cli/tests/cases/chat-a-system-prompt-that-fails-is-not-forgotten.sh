# The document is gone: questions fail until it is there again, and none is answered under the old prompt.
#: exit 2
cp "$DOCUMENT" text
(
    printf 'Who?\n'
    while [ ! -s out ]; do sleep 0.05; done
    mv text gone
    printf '/system Be brief.\nWhat?\nAgain?\n'
) | apb chat --model "$MODEL" --document text --greedy --max-tokens 2 --json >out
code=$?
[ "$(grep -c '"error"' out)" = 2 ] || exit 9
exit $code
