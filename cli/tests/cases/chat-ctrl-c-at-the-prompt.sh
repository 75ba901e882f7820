# Ctrl-C while nothing runs ends the program.
#: stdout ended with 130
mkfifo questions
apb chat --model "$MODEL" --document "$DOCUMENT" --greedy --max-tokens 2 <questions >out 2>err &
chat=$!
exec 3>questions
echo Who? >&3
while [ ! -s out ]; do sleep 0.1; done
sleep 0.5
kill -INT $chat
wait $chat
echo "ended with $?"
