#: exit 2
#: stderr another text
cp "$DOCUMENT" text
(
    printf 'Who?\n'
    while [ ! -s out ]; do sleep 0.05; done
    echo 'Something else.' >text
    printf '/system Be brief.\nWhat?\n'
) | apb chat --model "$MODEL" --document text --greedy --max-tokens 2 --json >out
