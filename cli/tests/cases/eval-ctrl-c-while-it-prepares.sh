# While samples are made, which takes seconds here, Ctrl-C ends the program at once; the results are whole lines.
#: stdout ended with 130 and 1 line
#: stdout at once
apb eval ruler --model "$MODEL" --tasks cwe --tokens 1000000 --samples 3 --methods full --allow-long --out results.jsonl >shown 2>err &
eval=$!
while [ ! -s results.jsonl ]; do sleep 0.1; done
sleep 0.3
started=$(date +%s)
kill -INT $eval
wait $eval
code=$?
[ $(($(date +%s) - started)) -le 2 ] && echo 'at once'
echo "ended with $code and $(($(wc -l <results.jsonl))) line"
